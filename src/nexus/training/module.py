"""DistillationModule: the student with its objectives. Its forward returns the losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.kernels.chunked_head import Workspace, chunked_head
from nexus.kernels.lm_head import Trunk, split_head
from nexus.kernels.sweeps import Losses
from nexus.objectives.observers import agreement_or_tie, forward_kl
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum, needs_of
from nexus.signals import Headed, Signal, Signals


@dataclass(frozen=True)
class StepLosses:
    """The losses of one batch, summed over its targets. Only `total` carries a gradient."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    """Each computed term by its label, before weighting."""
    observed: dict[str, Float[Tensor, ""]]
    """`kl` at T = 1 and top-1 `agreement`, when the teacher ran."""


class DistillationModule(nn.Module):
    """What is trained, and what is wrapped or sharded when there are many processes.

    The student runs up to its last hidden states; all token objectives are computed together over
    its head, chunk by chunk.
    """

    def __init__(
        self, student: nn.Module, objectives: WeightedSum, vocabulary: int,
        *, packed: bool = True, fused: bool = False,
    ) -> None:  # fmt: skip
        """Prepare `student` for training.

        Args:
            student: a transformers causal language model, or one that PEFT wraps.
            objectives: the terms of the loss.
            vocabulary: how many rows of the head stand for tokens.
            packed: whether rows hold several documents.
            fused: whether to compile the element-wise work of the losses.
        """
        super().__init__()
        self.student = student
        self.objectives = objectives
        self.fused = fused
        self._cut = (vocabulary, packed)
        self._workspace = Workspace()

    @cached_property
    def trunk(self) -> Trunk:
        vocabulary, packed = self._cut
        return split_head(self.student, vocabulary, packed)

    def wanted(self, weights: tuple[float, ...]) -> Signal:
        """What the teacher is asked for at these weights; at alpha = 1 nothing, so it rests."""
        return needs_of([objective for objective, _ in self._active(weights)])

    def forward(self, batch: Batch, signals: Signals, weights: tuple[float, ...]) -> StepLosses:
        """The weighted sum of all terms over the batch's targets. Never a mean: the loop divides.

        Args:
            batch: rows of packed documents with shifted targets.
            signals: the teacher's, for at least what `wanted` says.
            weights: one weight an objective, as the schedule gives them at this step.
        """
        hidden = self.trunk.hidden(batch)[batch.is_target]
        active = self._active(weights)
        teacher = signals.distribution
        observed = {"kl": forward_kl, "agreement": agreement_or_tie} if teacher is not None else {}
        losses = Losses(
            tuple(objective.per_token for objective, _ in active),
            tuple(observed.values()),
            _temperatures([objective for objective, _ in active], 1.0 if observed else None),
            _temperatures([o for o, _ in active if o.needs], 1.0 if observed else None),
        )
        result = chunked_head(
            Headed(hidden, self.trunk.head()),
            teacher,
            batch.at_targets(),
            losses,
            torch.tensor([weight for _, weight in active], device=hidden.device),
            fused=self.fused,
            workspace=self._workspace,
        )
        labels = [objective.label for objective, _ in active]
        return StepLosses(
            result.total,
            dict(zip(labels, result.per_token.sum(1), strict=True)),
            dict(zip(observed, result.observed.sum(1), strict=True)),
        )

    def _active(self, weights: tuple[float, ...]) -> list[tuple[Task | Output, float]]:
        pairs = zip(self.objectives.objectives, weights, strict=True)
        return [(objective, weight) for objective, weight in pairs if weight != 0]


def _temperatures(objectives: list[Task | Output], also: float | None) -> tuple[float, ...]:
    found = {t for objective in objectives for t in objective.temperatures}
    return tuple(sorted(found | ({also} if also is not None else set())))
