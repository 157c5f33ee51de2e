"""The guard: no NaN and no infinity ever reaches the weights of a run, or hides in its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nexus.errors import NexusError
from nexus.signals import Dense, Distribution, Headed, Mixture, Support
from nexus.training.checkpoint import Notice
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec

LOWERED = 0.5
"""What the learning rate is multiplied by after going back."""


class Diverged(NexusError):
    """Training went wrong again after it had gone back and on with a lower rate."""


@dataclass
class Guard:
    """What is done about steps whose numbers are not finite.

    Such a step moves no weight. After `max_bad_steps` of them in a row training goes back to its
    last good checkpoint and on with half the learning rate; if it comes to that again, it ends. All
    processes decide alike, for they decide by numbers that are summed over all of them.
    """

    stage: str
    settings: TrainSpec
    parallel: Parallel
    notice: Notice
    rate: float = 1.0
    """The share of the learning rate that is left. Part of a run's state, as its weights are."""
    bad_steps: int = 0
    """In a row. No checkpoint is written meanwhile: it would be the one to go back to."""
    why: str = ""
    """What was wrong last."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for the guard to go on as it would have."""
        return {"rate": self.rate}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rate = float(state.get("rate", 1.0))

    def has_lost(self, step: int, values: Mapping[str, Any]) -> bool:
        """Take note of what the `step`-th step came to; whether training must go back."""
        self.bad_steps = self.bad_steps + 1 if "skipped" in values else 0
        if self.bad_steps:
            self.why = values["why"]
            self.notice(step, self.why, "The step was skipped and moved no weight")
        return self.bad_steps >= self.settings.max_bad_steps

    def passes(self, module: nn.Module, step: int) -> bool:
        """Whether all weights are finite, on all processes: only then may they be saved."""
        if not self.parallel.any(not is_finite(module)):
            return True
        self.why = "a weight is not finite"
        self.notice(step, self.why, "Nothing of it was saved")
        return False

    def lower_rate(self, step: int) -> None:
        """Go on with a lower learning rate, from the last good checkpoint.

        Raises:
            Diverged: it was lowered before.
        """
        if self.rate == 1.0:
            self.rate, self.bad_steps = LOWERED, 0
            remedy = f"Training goes back to a checkpoint, and on with {LOWERED:g} of the rate"
            self.notice(step, f"too many bad steps, and at last {self.why}", remedy)
            return
        what = f"{self.why}, although training had gone back once and on with a lower learning rate"
        remedy = (
            "Correct or remove the rows it names, or lower train.learning_rate (now "
            f"{self.settings.learning_rate:g}), and start over with --fresh"
        )
        self.notice(step, what, remedy)
        raise Diverged(
            f"stage '{self.stage}' diverged at step {step}: {what}. All checkpoints are from "
            f"before that. {remedy}"
        )


@torch.no_grad()
def is_finite(module: nn.Module) -> bool:
    """Whether no weight of `module` is NaN or infinite. Waits once, for all of them."""
    weights = [_own(p) for p in module.parameters() if p.is_floating_point()]
    norms = torch._foreach_norm([weight for weight in weights if weight.numel()], torch.inf)
    return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


def _own(weight: Tensor) -> Tensor:
    """This process's part."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def largest(distribution: Distribution) -> Tensor:
    """The largest value of a teacher's answer by size: NaN or infinite if the answer is unusable.

    A log-probability of minus infinity is a sound one, as long as its row has others. Costs one
    pass over the answer and no waiting.
    """
    match distribution:
        case Headed():
            return _peak(distribution.hidden)
        case Mixture():
            return torch.stack([_peak(member.hidden) for member in distribution.members]).amax()
        case Dense():
            return _peak(_best(distribution.logits))
        case Support(log_probs=log_probs, rest=rest):
            best = _best(log_probs)
            return _peak(best if rest is None else torch.maximum(best, rest.float()))
        case _:
            raise TypeError(f"unknown distribution {type(distribution).__name__}")


def _best(scores: Tensor) -> Tensor:
    """The best score of each row, which is finite if and only if the row is sound."""
    return scores.float().amax(-1) if scores.shape[-1] else scores.new_zeros(len(scores))


def _peak(values: Tensor) -> Tensor:
    if not values.numel():
        return values.new_zeros((), dtype=torch.float32)
    peak: Tensor = torch.linalg.vector_norm(values, ord=torch.inf)
    return peak.float()
