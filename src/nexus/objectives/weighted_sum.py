"""The weighted sum of objectives, and the union of their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from nexus.errors import UsageError
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.schedule import weight_at
from nexus.signals import Signal

AnyObjective = Annotated[Task | Output, Field(discriminator="kind")]
"""Every objective a recipe can name."""


@dataclass(frozen=True)
class WeightedSum:
    """Σ weight × objective. A term whose weight is zero at a step is not computed in that step."""

    objectives: tuple[Task | Output, ...]

    def __post_init__(self) -> None:
        if not self.objectives:
            raise UsageError("'objectives' is empty: give at least one, for example {kind: output}")
        labels = [objective.label for objective in self.objectives]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise UsageError(
                f"two objectives are called '{twice[0]}': give each a 'name' to tell them apart"
            )

    def weights(self, step: int, steps: int) -> tuple[float, ...]:
        """Each term's weight at a step.

        Raises:
            UsageError: if nothing is left to learn from.
        """
        weights = tuple(weight_at(objective.weight, step, steps) for objective in self.objectives)
        if not any(weights):
            raise UsageError(f"all objectives have weight 0 at step {step}: raise one of them")
        return weights

    def rehearse(self, steps: int) -> None:
        """Ask for the weights from the first step to the last, before hours are spent on them.

        Raises:
            UsageError: if at some step nothing is left to learn from.
        """
        for percent in range(101):
            self.weights((steps - 1) * percent // 100, steps)

    @cached_property
    def needs(self) -> Signal:
        """All that a teacher must be able to provide at some step."""
        return needs_of([o for o in self.objectives if o.weight != 0])

    def require(self, provided: Signal, teacher: str) -> None:
        """Check before anything is loaded that the teacher provides what the objectives need."""
        for objective in self.objectives:
            missing = objective.needs & ~provided
            if objective.weight != 0 and missing:
                raise UsageError(
                    f"objective '{objective.label}' needs {objective.needs.names}, but teacher "
                    f"'{teacher}' provides {provided.names}. Use another teacher or drop the "
                    "objective"
                )


def needs_of(objectives: Sequence[Task | Output]) -> Signal:
    needs = Signal.NONE
    for objective in objectives:
        needs |= objective.needs
    return needs
