"""A student cut out of the teacher, to any size."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from transformers import PreTrainedConfig, PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.fingerprint import of_model, of_text
from nexus.pruning.depth import smaller_config
from nexus.pruning.depth_search import DepthStrategy
from nexus.pruning.families import family_of
from nexus.pruning.importance import Strategy
from nexus.pruning.norms import Norms
from nexus.pruning.prune import copied
from nexus.pruning.saved import survives
from nexus.pruning.search import AXES, Axis, explicit_shape
from nexus.pruning.sizes import Sizes
from nexus.pruning.target import BudgetName, Target, Types, meet, number_of_parameters
from nexus.pruning.token_ids import renumber
from nexus.pruning.watching import Aggregate
from nexus.spec import Spec
from nexus.students.cutting import SCORES, TOKENS, Decision, Plan, make, with_saving
from nexus.students.ranking import Search
from nexus.voice import Say

Size = Annotated[int, Field(ge=1)]

Parameters = Annotated[
    float,
    AfterValidator(number_of_parameters),
    Field(json_schema_extra={"exclusiveMinimum": 1}),
]

OWN_TYPES = Types()

ROUGH_TOKENS = 4_096
"""How much text is looked at for a student that is not kept."""

SOME_TOKENS = 16_384
"""How many tokens a text is taken to use until it has been read."""


class Shape(Spec):
    """The sizes of a student, each the teacher's own where it is not given."""

    layers: Size | None = None
    hidden: Size | None = None
    neurons: Size | None = None
    heads: Size | None = None
    groups: Size | None = None
    """Key-value heads."""
    experts: Size | None = None
    expert_neurons: Size | None = None

    @property
    def given(self) -> dict[Axis, int]:
        """The sizes that are."""
        return {axis: size for axis, size in self.model_dump().items() if size is not None}  # type: ignore[misc]


class Pruned(Spec):
    """A student cut out of the teacher: its most important layers, channels, neurons and heads.

    Minitron (arXiv:2407.14679): far better to start from than random weights, at any size.
    """

    kind: Literal["pruned"] = "pruned"
    target_params: Parameters | None = None
    """How many parameters in all, within 2 %; the shape is chosen."""
    target: Annotated[float, Field(gt=0)] | None = None
    """Or so much of `budget`; up to 1, a share of what the teacher takes."""
    budget: BudgetName = "parameters"
    """What `target` counts. Bytes are those of the student as it is saved in the end. Latency is
    milliseconds a token, measured on this machine."""
    shape: Shape | None = None
    """Or the very shape."""
    vocabulary: Annotated[int, Field(ge=1)] | Literal["used"] | None = None
    """How many tokens are kept, those that the training text uses most first; `used` is all that it
    uses and what they are made of. The tokenizer is cut with the student, and the teacher gives up
    the same tokens. Alone it leaves all else as it is; a target counts what it saves."""
    strategy: Strategy = "activation"
    """How importance is told."""
    aggregate: tuple[Aggregate, Aggregate] = ("mean", "l2")
    """How activations are summed up: over the tokens of a row, and over rows. The default is the
    best of arXiv:2407.14679."""
    depth: DepthStrategy | None = None
    """How layers are told apart, where some go. Unless given, the most important ones stay,
    or others if a trial on the text clearly says so."""
    axes: tuple[Axis, ...] = AXES
    """Which sizes a target may change."""
    multiple: Annotated[int, Field(ge=1)] = 32
    """Neurons and hidden channels are multiples of it, as quantisers want them, and so are heads
    and groups times their entries where the teacher's own are."""
    repair: bool = True
    """Refit what is left on training text, in closed form."""
    norms: Norms = "rescaled"
    """What becomes of norms' weights where hidden channels go: times sqrt(all / kept), or times
    what is `measured` on training text."""
    calibration_tokens: Annotated[int, Field(ge=1)] = TOKENS
    """How much of the training text importance and repair look at; more changes little."""
    scores: Path | None = None
    """A file to keep importance in, or to take it from, for runs with other targets. If not given,
    the run keeps it to itself."""
    search: Search | None = None
    """Tell several shapes for the target apart by short distillation; else a rule of thumb does."""

    @model_validator(mode="after")
    def _says_how_large(self) -> Self:
        shape = self.shape is not None and bool(self.shape.given)
        given = [self.target_params is not None, self.target is not None, shape]
        if sum(given) > 1 or not (any(given) or self.vocabulary):
            raise ValueError(
                "a pruned student needs one of target_params: 1.0e8, target: 0.75 (with budget: "
                "latency, say) and shape: {neurons: 896}, or only vocabulary: 16384: "
                f"{'drop all but one' if any(given) else 'add one'}"
            )
        if self.search is not None and not any(given):
            raise ValueError(
                "search chooses among shapes for a target, but there is none: drop search, or give "
                "target_params"
            )
        if shape and self.search is not None:
            raise ValueError(
                "search chooses among shapes for a target, but the very shape is given: drop "
                "search, or give target_params"
            )
        if self.target is None and self.budget != "parameters":
            raise ValueError(
                f"budget: {self.budget} says what target counts, but there is none: add target: "
                "0.75, say, for three quarters of what the teacher takes"
            )
        return self

    def aim(self, types: Types = OWN_TYPES) -> Target:
        """The target; nothing of one where there is a shape instead."""
        return Target(self.target or self.target_params or 0, self.budget, types)

    @property
    def is_sized(self) -> bool:
        """Whether anything but the vocabulary goes."""
        return bool(self.shape or self.target or self.target_params)

    def of_whole(self, teacher: PreTrainedModel) -> Pruned:
        """The same with its target in the budget's unit, where the vocabulary goes as well.

        Args:
            teacher: with its whole vocabulary; may be on the meta device.

        Raises:
            UsageError: The target is a share of a time.
        """
        if self.vocabulary is None or not (self.target or self.target_params):
            return self
        aim = self.aim().absolute(teacher, family_of(teacher))
        return self.model_copy(update={"target": aim.amount, "target_params": None})

    def narrow_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """A teacher's configuration with about as many tokens as will be kept."""
        if self.vocabulary is None:
            return config
        wanted = SOME_TOKENS if self.vocabulary == "used" else self.vocabulary
        fewer = copy.deepcopy(config)
        text = fewer.get_text_config()
        text.vocab_size = min(wanted, text.vocab_size)
        renumber(fewer, {})
        return fewer

    def sizes(self, teacher: PreTrainedModel, types: Types = OWN_TYPES) -> Sizes:
        """The student's sizes; the teacher may be on the meta device.

        Args:
            teacher: which it is to be cut out of.
            types: what the budget is counted in.

        Raises:
            UsageError: The architecture is unknown or cannot be cut to this, and the nearest is
                named.
        """
        family = family_of(teacher)
        if not self.is_sized:
            return Sizes.of(teacher.config, family)
        if self.shape is not None:
            return explicit_shape(teacher, family, self.shape.given, self.multiple)
        limits: Any = {"multiple": self.multiple, "axes": self.axes}
        return meet(self.aim(types), teacher, family, **limits).sizes

    def config(self, teacher: PreTrainedModel, types: Types = OWN_TYPES) -> PreTrainedConfig:
        """The student's configuration, of the teacher's first layers; for memory to be foreseen."""
        sizes = self.sizes(teacher, types)
        total = teacher.config.get_text_config().num_hidden_layers
        fewer = smaller_config(teacher.config, tuple(range(sizes.layers)), total)
        return sizes.apply(fewer, family_of(teacher))

    def build(
        self,
        teacher_model: PreTrainedModel | None,
        calibration: Iterable[Batch],
        folder: Path,
        seed: int,
        workspace: Path | None = None,
        say: Say = lambda text: None,
        types: Types = OWN_TYPES,
        *,
        saved_next: bool = False,
    ) -> PreTrainedModel:
        """Score, choose and cut, in float32.

        Args:
            teacher_model: which it is cut out of.
            calibration: text for importance and repair, and then for the search.
            folder: of the recipe.
            seed: of a random choice.
            workspace: where scores and what was decided are kept, so that neither is done twice.
            say: told in a sentence what begins.
            types: what a budget is counted in: the type that a run saves its student in, say.
            saved_next: whether the caller saves it at once, and proves that it is loaded as what it
                is. Else this is proved here, where the shape is decided on.

        Raises:
            UsageError: There is no teacher in this process, or it cannot be cut to this.
            NexusError: A proof failed.
        """
        if teacher_model is None:
            raise UsageError(
                "A student of kind 'pruned' is cut out of the teacher, but the teacher is not a "
                "model in this process. Use a local teacher, or a pretrained student."
            )
        text = list(calibration)
        decision, decided = None, None
        if workspace is not None:
            facts = self.model_dump() | {"text": of_text(text), "teacher": of_model(teacher_model)}
            facts |= {"seed": seed}
            if self.budget in ("bytes", "latency"):
                facts |= {"types": types}
            decision = Decision.of(workspace, facts)
            decided = decision.sizes
        proves = decided is None and not saved_next
        if not self.is_sized:
            return self._whole(teacher_model, decision, workspace, proves=proves)
        aim = decided or (self.aim(types) if self.shape is None else self.sizes(teacher_model))
        made = make(
            teacher_model,
            text,
            aim,
            self.plan(seed),
            scores=self._scores(folder, workspace),
            workspace=None if workspace is None else workspace / "search",
            anew=self.scores is None,
            dtype=torch.float32,
            say=say,
        )
        if proves:
            made = with_saving(made, workspace)
        if decision is not None and decided is None:
            decision.keep(made)
        return made.pruned.model

    def _whole(
        self,
        teacher: PreTrainedModel,
        decision: Decision | None,
        workspace: Path | None,
        *,
        proves: bool,
    ) -> PreTrainedModel:
        """All of a teacher that has fewer tokens than it had."""
        student, findings = copied(teacher, torch.float32)
        if proves:
            findings += (survives(student, workspace),)
        if decision is not None and decision.sizes is None:
            decision.write(Sizes.of(student.config, family_of(student)), findings)
        return student

    def _scores(self, folder: Path, workspace: Path | None) -> Path | None:
        """Where importance is kept: the file that is named, or the run's own."""
        if self.scores is not None:
            return folder / self.scores.expanduser()
        return None if workspace is None else workspace / SCORES

    def plan(self, seed: int) -> Plan:
        """How it is cut, all but how large it is to be."""
        return Plan(
            strategy=self.strategy,
            aggregate=self.aggregate,
            depth=self.depth,
            axes=self.axes,
            multiple=self.multiple,
            repair=self.repair,
            search=self.search,
            seed=seed,
            tokens=self.calibration_tokens,
            norms=self.norms,
        )

    @property
    def rough(self) -> Pruned:
        """The same at little cost, to be looked at and not kept: by less text, without a search."""
        tokens = min(self.calibration_tokens, ROUGH_TOKENS)
        return self.model_copy(
            update={"calibration_tokens": tokens, "search": None, "scores": None}
        )

    @property
    def tokens(self) -> int:
        """How much text it takes to build it."""
        search = self.search
        searched = 0 if search is None else search.zero_shot_tokens + search.longest
        return self.calibration_tokens + searched
