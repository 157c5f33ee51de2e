"""Recipe and Stage: the whole of what a run can be told."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from nexus.data.loader import DataSpec
from nexus.errors import UsageError
from nexus.evaluation.speed import BATCH_SIZES
from nexus.evaluation.tasks import AnyTask
from nexus.objectives.output import Output
from nexus.objectives.weighted_sum import AnyObjective, WeightedSum
from nexus.recipe.few_bits import Quantize
from nexus.redaction import secret_in
from nexus.results import FEW_BITS
from nexus.spec import Spec
from nexus.students import AnyCut, AnyStudent
from nexus.students.pruned import Pruned
from nexus.teachers import AnyTeacher
from nexus.training.settings import TrainSpec

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")

Objectives = Annotated[tuple[AnyObjective, ...], Field(min_length=1)]


class Stage(Spec):
    """One phase of training with objectives and settings of its own."""

    name: str = Field(json_schema_extra={"pattern": NAME.pattern})
    """Names its checkpoints and its curves."""
    student: AnyCut | None = None
    """Cut this, before training, from the student that the stage before left behind."""
    teacher: Literal["original", "previous"] = "original"
    """Whom the stage learns from: the recipe's teacher, or the student that the stage before left
    behind, frozen."""
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

    tasks: tuple[AnyTask, ...] = ()
    """Questions with known answers, put to the teacher and to the student, before its first step
    and after its last one."""
    speed_seconds: float = Field(default=20.0, ge=0)
    """How long teacher and student are timed in turns, all batch sizes together; 0: not at all."""
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        BATCH_SIZES
    )
    """How many texts at once are timed."""
    rollouts: int = Field(default=8, ge=0)
    """How many held-out documents the student continues, to be measured on what it writes itself;
    0 leaves that out."""
    rollout_tokens: int = Field(default=64, ge=1)
    """How much it writes of each."""
    samples: int = Field(default=3, ge=0)
    """How many held-out documents both continue, to be read side by side."""
    sample_tokens: int = Field(default=40, ge=1)

    @field_validator("tasks")
    @classmethod
    def _differ(cls, tasks: tuple[AnyTask, ...]) -> tuple[AnyTask, ...]:
        names = [task.name for task in tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tasks are called '{twice}': give each a name of its own")
        return tasks


class CheckSpec(Spec):
    """What becomes of a run for which something could not be proved before its first step."""

    stop: bool = True
    """Whether it stops at a failed proof. False: it begins all the same, and a finding says so."""


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
    quantize: Quantize | None = None
    """Write the trained student in few bits as well, and measure what that cost."""
    check: CheckSpec = CheckSpec()
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
            self._check(stage, f"stage '{stage.name}': " if self.stages else "")
        if (last := self.few_bits_stage) is not None:
            self._check(last, "quantize.distill.")
            if last.name in names:
                raise ValueError(
                    f"a stage is called '{last.name}', which is what quantize.distill is called in "
                    "metrics and checkpoints: give the stage another name"
                )
        self._check_descent()
        return self

    def _check(self, stage: Stage, where: str) -> None:
        """What needs no model and no data to be told, before hours are spent on earlier stages."""
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

    def _check_descent(self) -> None:
        """Every student is smaller than the one that it is cut from, as far as numbers tell."""
        sizes = [self.student, *(stage.student for stage in self.stages[1:])]
        before: float | None = None
        for number, cut in enumerate(sizes):
            where = f"stage '{self.stages[number].name}'" if self.stages else ""
            first = number == 0 and bool(self.stages)
            if first and self.stages[0].student is not None:
                raise ValueError(
                    f"{where} is the first, whose student is the recipe's: write it as 'student' "
                    "of the recipe"
                )
            if first and self.stages[0].teacher == "previous":
                raise ValueError(
                    f"{where} is the first, so there is no previous student to learn from: set "
                    "teacher: original"
                )
            if number and isinstance(cut, Pruned) and cut.vocabulary is not None:
                raise ValueError(
                    f"{where}: student.vocabulary is cut once, before all text is tokenised: put "
                    "vocabulary under the recipe's own 'student', of kind pruned"
                )
            target = cut.target_params if isinstance(cut, Pruned) else None
            if target and before and target >= before:
                raise ValueError(
                    f"{where}: student.target_params is {target:,.10g}, which is not below the "
                    f"{before:,.10g} of the student that it is cut from: lower it"
                )
            before = target or (before if cut is None else None)

    @property
    def cascades(self) -> bool:
        """Whether a stage has a student or a teacher of its own."""
        return any(stage.student or stage.teacher == "previous" for stage in self.stages)

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages as a list, also when the recipe writes a single one without its name."""
        if self.objectives is not None and self.train is not None:
            return (Stage(name="train", objectives=self.objectives, train=self.train),)
        return self.stages

    def saved_in(self, number: int) -> torch.dtype:
        """What the weights of a stage's student are saved in, before it is cut again or at the end.

        A stage trains in float32 weights, or in bfloat16 with `pure_bf16`; the last one decides.
        """
        stages = self.all_stages
        after = range(number + 1, len(stages))
        end = next((later for later in after if stages[later].student), len(stages))
        return stages[end - 1].train.weights

    @property
    def few_bits_stage(self) -> Stage | None:
        """What trains the student within few bits, after all stages; nothing unless asked for."""
        if self.quantize is None or self.quantize.distill is None:
            return None
        follow = Output(divergence="forward_kl", temperature=1.0)
        train = self.quantize.distill.train
        return Stage(name=FEW_BITS, teacher="previous", objectives=(follow,), train=train)

    @property
    def all_training(self) -> tuple[Stage, ...]:
        """Everything that reads training text, in its order."""
        last = self.few_bits_stage
        return self.all_stages if last is None else (*self.all_stages, last)
