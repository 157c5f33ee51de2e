"""Recipe and Stage: the whole of what a run can be told. The unions here list all that exists."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from nexus.data.loader import DataSpec
from nexus.errors import UsageError
from nexus.objectives.weighted_sum import AnyObjective, WeightedSum
from nexus.redaction import secret_in
from nexus.spec import Spec
from nexus.students import AnyStudent
from nexus.teachers.local import LocalTeacherSpec
from nexus.training.settings import TrainSpec

AnyTeacher = LocalTeacherSpec
"""Every teacher a recipe can name."""

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")

Objectives = Annotated[tuple[AnyObjective, ...], Field(min_length=1)]


class Stage(Spec):
    """One phase of training with objectives and settings of its own."""

    name: str = Field(json_schema_extra={"pattern": NAME.pattern})
    """Names its checkpoints and its curves."""
    objectives: Objectives
    train: TrainSpec

    @field_validator("name")
    @classmethod
    def _names_files(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("it names files: use letters, digits, - and _ only")
        return name


class EvaluateSpec(Spec):
    """What is measured at the end of a run, besides fidelity on the held-out documents."""

    speed_seconds: float = Field(default=20.0, ge=0)
    """How long teacher and student are timed in turns; 0 leaves speed out."""
    samples: int = Field(default=3, ge=0)
    """How many held-out documents both continue, to be read side by side."""
    sample_tokens: int = Field(default=40, ge=1)


class Recipe(Spec):
    """A run: which teacher, which student, which text, which losses, how long."""

    output: str
    """The run directory."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    teacher: AnyTeacher
    student: AnyStudent
    data: DataSpec
    objectives: Objectives | None = None
    """The terms of the loss, when there is one stage."""
    train: TrainSpec | None = None
    """How the one stage trains."""
    stages: tuple[Stage, ...] = ()
    """Several stages, one after another on one student, instead of `objectives` and `train`."""
    evaluate: EvaluateSpec = EvaluateSpec()

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, values: Any) -> Any:
        if found := secret_in(values):
            key, what = found
            raise ValueError(
                f"'{key}' holds what looks like a secret ({what}). A recipe is copied into its run "
                "and the report: put the secret into the environment, where libraries look for it "
                "(HF_TOKEN, AWS_SECRET_ACCESS_KEY, …)"
            )
        return values

    @field_validator("output")
    @classmethod
    def _is_a_place(cls, output: str) -> str:
        if not output.strip() or output.startswith("~") or not output.isprintable():
            raise ValueError("it names no directory: write it out, relative to the recipe's folder")
        return output

    @model_validator(mode="after")
    def _has_stages(self) -> Self:
        single = self.objectives is not None and self.train is not None
        if self.stages and (self.objectives is not None or self.train is not None):
            raise ValueError("'stages' replaces 'objectives' and 'train': keep one or the other")
        if not self.stages and not single:
            missing = "objectives" if self.objectives is None else "train"
            raise ValueError(f"'{missing}' is missing: add it, or a list of 'stages'")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages share a name: give each its own")
        for stage in self.all_stages:
            self._check(stage)
        return self

    def _check(self, stage: Stage) -> None:
        """What needs no model and no data to be told, before hours are spent on earlier stages."""
        where = f"stage '{stage.name}': " if self.stages else ""
        try:
            WeightedSum(stage.objectives).rehearse(stage.train.steps)
        except UsageError as error:
            raise ValueError(f"{where}{error}") from None
        tokens, length = stage.train.tokens_per_step, self.data.sequence_length
        if tokens % length:
            below = tokens // length * length
            raise ValueError(
                f"{where}train.tokens_per_step is {tokens}, which is no multiple of "
                f"data.sequence_length {length}. Set it to "
                + (f"{below} or {below + length}" if below else f"{length}")
            )

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages as a list, also when the recipe writes a single one without its name."""
        if self.objectives is not None and self.train is not None:
            return (Stage(name="train", objectives=self.objectives, train=self.train),)
        return self.stages
