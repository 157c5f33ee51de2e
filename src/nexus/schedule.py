"""Schedules: numbers that change with the step, as pure functions of the step."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nexus.spec import Spec

Share = Annotated[float, Field(ge=0, le=1)]


class Linear(Spec):
    """From `start` to `end` in a straight line."""

    kind: Literal["linear"] = "linear"
    start: float = Field(ge=0)
    end: float = Field(ge=0)

    def value(self, step: int, steps: int) -> float:
        return self.start + (self.end - self.start) * _share_done(step, steps)


class Cosine(Spec):
    """From `start` to `end` along half a cosine, flat at both ends."""

    kind: Literal["cosine"] = "cosine"
    start: float = Field(ge=0)
    end: float = Field(ge=0)

    def value(self, step: int, steps: int) -> float:
        done = 0.5 * (1 - math.cos(math.pi * _share_done(step, steps)))
        return self.start + (self.end - self.start) * done


class WarmupStableDecay(Spec):
    """From `start` up to `peak`, level for most of the run, then down to `end`.

    As the weight of distillation beside a learning rate of the same shape it did best in
    arXiv:2410.16215: much distillation while the rate is high, the task at the end.
    """

    kind: Literal["wsd"] = "wsd"
    start: float = Field(default=0.0, ge=0)
    peak: float = Field(ge=0)
    end: float = Field(default=0.0, ge=0)
    warmup: Share = 0.1
    """The share of the run that the rise takes."""
    decay: Share = 0.2
    """The share of the run that the fall takes."""

    @model_validator(mode="after")
    def _rise_ends_before_the_fall(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup {self.warmup} and decay {self.decay} are shares of one run and must not "
                "exceed 1 together: lower one of them"
            )
        return self

    def value(self, step: int, steps: int) -> float:
        done = _share_done(step, steps)
        rise = min(1.0, done / self.warmup) if self.warmup else 1.0
        fall = min(1.0, (1 - done) / self.decay) if self.decay else 1.0
        if fall < 1:
            return self.end + (self.peak - self.end) * fall
        return self.start + (self.peak - self.start) * rise


Schedule = Annotated[Linear | Cosine | WarmupStableDecay, Field(discriminator="kind")]


def _form(weight: Any) -> str:
    return "number" if isinstance(weight, int | float | str) else "schedule"


Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("number")] | Annotated[Schedule, Tag("schedule")],
    Discriminator(_form),
]
"""A number, or a schedule. Told apart by their form, so that a mistake is explained once."""


def weight_at(weight: float | Linear | Cosine | WarmupStableDecay, step: int, steps: int) -> float:
    """The value of a constant or scheduled weight at `step` of `steps`."""
    return weight if isinstance(weight, int | float) else weight.value(step, steps)


def learning_rate_share(
    shape: Literal["constant", "linear", "cosine", "wsd"],
    step: int,
    steps: int,
    *,
    warmup_steps: int = 0,
    decay_share: float = 0.2,
    floor: float = 0.0,
) -> float:
    """The share of the peak learning rate at `step`: linear warm-up, then the shape.

    `floor` is the share left at the end; `decay_share` is the last part of the run in which a
    `wsd` rate falls, linearly.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    match shape:
        case "constant":
            left = 1.0
        case "linear":
            left = 1 - done
        case "cosine":
            left = 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            left = min(1.0, (1 - step / max(1, steps)) / decay_share) if decay_share else 1.0
    return floor + (1 - floor) * left


def _share_done(step: int, steps: int) -> float:
    """0 at the first step and 1 at the last."""
    return min(1.0, step / max(1, steps - 1))
