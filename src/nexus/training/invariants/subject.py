"""Subject: what is put to the test, and the two things that can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.signals import Signals
from nexus.teachers.local import LocalTeacher
from nexus.teachers.teacher import Teacher
from nexus.training.invariants.exact import norm
from nexus.training.loop import Stage, ask, take_step
from nexus.training.module import DistillationModule, StepLosses
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec

Objectives = tuple[Task | Output, ...]

UNCLIPPED = 1e30


NOTHING = 1e-5
"""Nats a token: of a loss below it, the shares that a step should change are rounding."""

ONE = "loss or gradient is zero: student and teacher are one"


@dataclass(frozen=True)
class Taken:
    """What one optimiser step would do: the mean loss and the gradient that is applied."""

    loss: float
    gradients: dict[str, Tensor]
    """By the parameter's name; only those that got one."""

    @property
    def is_rounding(self) -> bool:
        """Whether nothing is left to learn, so that loss and gradient are rounding."""
        return abs(self.loss) < NOTHING or not norm(list(self.gradients.values())) > 0


@dataclass(frozen=True)
class Subject:
    """Teacher, student and objectives of a stage, as training would use them.

    What is asked goes through `training.loop.take_step` and `DistillationModule`: the very lines
    that train. Nothing is compiled.
    """

    teacher: LocalTeacher
    student: nn.Module
    objectives: Objectives
    settings: TrainSpec
    vocabulary: int
    packed: bool
    folder: Path
    """A place that is thrown away, for what a step leaves behind."""
    limit: float
    """The relative difference that rounding explains."""

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device

    @property
    def active_step(self) -> int:
        """The step of the stage, of first, middle and last, at which most terms take part."""
        steps = self.settings.steps
        weighted = WeightedSum(self.objectives)
        candidates = (0, steps // 2, steps - 1)
        return max(candidates, key=lambda step: sum(w != 0 for w in weighted.weights(step, steps)))

    @property
    def weights(self) -> tuple[float, ...]:
        return WeightedSum(self.objectives).weights(self.active_step, self.settings.steps)

    def module(self, objectives: Objectives | None = None) -> DistillationModule:
        weighted = WeightedSum(objectives or self.objectives)
        return DistillationModule(self.student, weighted, self.vocabulary, packed=self.packed)

    def step(
        self,
        group: Sequence[Batch],
        objectives: Objectives | None = None,
        teacher: Teacher | None = None,
    ) -> Taken:
        """One optimiser step over `group` that records its gradient and moves nothing."""
        module = self.module(objectives)
        keeper = Keeper(module)
        settings = self.settings.model_copy(update={"clip_gradient": UNCLIPPED})
        stage = Stage(
            "check", module, teacher or self.teacher, Always(list(group)), settings, self.folder
        )
        values = take_step(stage, module, keeper, self.active_step, Parallel(device=self.device))
        return Taken(float(values["loss"]), keeper.gradients)

    def learns(self, batch: Batch) -> bool:
        """Whether anything that is trained has a part in the loss."""
        module = self.module()
        signals = ask(self.teacher, batch, module, self.weights)
        losses: StepLosses = module(batch, signals, self.weights)
        return losses.total.requires_grad

    @torch.no_grad()
    def losses(
        self, batch: Batch, objectives: Objectives | None = None, teacher: Teacher | None = None
    ) -> StepLosses:
        """The losses of one batch, without a gradient."""
        module = self.module(objectives)
        weights = module.objectives.weights(self.active_step, self.settings.steps)
        signals: Signals = ask(teacher or self.teacher, batch, module, weights)
        with self.settings.autocast(self.device):
            return cast(StepLosses, module(batch, signals, weights))


@dataclass(frozen=True)
class Always:
    """A source of the same micro-batches at every step."""

    group: list[Batch]

    def take(self, step: int) -> list[Batch]:
        return self.group


class Keeper(torch.optim.SGD):
    """Keeps the gradient, without a copy, and moves nothing."""

    def __init__(self, module: nn.Module) -> None:
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        super().__init__([weight for _, weight in trained], lr=1.0)
        self._trained, self.gradients = trained, dict[str, Tensor]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients = {name: p.grad for name, p in self._trained if p.grad is not None}


def alone(objective: Task | Output, weight: float = 1.0) -> Objectives:
    """The one term, at another weight."""
    return (objective.model_copy(update={"weight": weight}),)


@torch.no_grad()
def distance(one: Taken, other: Taken) -> float:
    """How far losses or gradients are apart, whichever is more, relative to the `other`."""
    loss = abs(one.loss - other.loss) / max(abs(other.loss), 1e-12)
    if one.gradients.keys() != other.gradients.keys() or not other.gradients:
        return float("inf")
    gap = square = torch.zeros((), dtype=torch.float64)
    for name, theirs in other.gradients.items():
        ours = one.gradients[name]
        gap = gap + torch.linalg.vector_norm(ours - theirs, dtype=torch.float64).cpu() ** 2
        square = square + torch.linalg.vector_norm(theirs, dtype=torch.float64).cpu() ** 2
    gradient = float((gap / square.clamp_min(1e-60)).sqrt())
    return max(loss, gradient) if gradient == gradient and loss == loss else float("nan")
