"""The element-wise work on a chunk of logits: three sweeps, derived by autograd, fused if asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.batch import Targets
from nexus.signals import (
    Distribution,
    Finish,
    Head,
    Headed,
    Mean,
    MixedScores,
    Mixture,
    Scores,
    Support,
)

Told = tuple[Tensor, ...] | Support | None
"""What a teacher says of a chunk: logits of one model or several, a support, or nothing."""

Biases = tuple[Tensor | None, ...]
"""The bias of each of the teacher's heads."""

TokenLoss = Callable[[Scores, Scores | Support | None, Targets], Tensor]
"""(student, teacher, targets) of some positions to one value each."""


class Statistics(NamedTuple):
    """What is known of each row of logits before any loss is computed."""

    top: Float[Tensor, " n"]
    """The largest logit. The others are taken relative to it, which keeps the digits of each."""
    normalizers: Float[Tensor, "n temperatures"]
    """log Σ exp((z - top) / T) at each temperature."""


class Known(NamedTuple):
    """The statistics of the student, and of each of the teacher's models."""

    student: Statistics
    teacher: tuple[Statistics, ...]


@dataclass(frozen=True)
class Losses:
    """Which losses a pass computes, and what it observes beside them without gradient."""

    losses: tuple[TokenLoss, ...]
    observed: tuple[TokenLoss, ...] = ()
    temperatures: tuple[float, ...] = (1.0,)
    """The temperatures whose normalisers are computed once, for speed; others work too."""
    teacher_temperatures: tuple[float, ...] = ()
    """The same for the teacher."""

    @property
    def count(self) -> int:
        return len(self.losses)

    @property
    def seen(self) -> int:
        return len(self.observed)


@dataclass(frozen=True)
class Sweeps:
    """The three sweeps for one set of losses and one pair of heads."""

    losses: Losses
    finish: Finish
    told_finishes: tuple[Finish, ...]
    shares: tuple[float, ...]
    mean: Mean
    fused: bool

    @classmethod
    def of(cls, losses: Losses, head: Head, teacher: Distribution | None, fused: bool) -> Sweeps:
        match teacher:
            case Mixture():
                finishes = tuple(member.head.finish for member in teacher.members)
                return cls(losses, head.finish, finishes, teacher.shares, teacher.mean, fused)
            case Headed():
                finishes = (teacher.head.finish,)
            case _:
                finishes = (Finish(),)
        return cls(losses, head.finish, finishes, (1.0,), "probability", fused)

    def __call__(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        biases: Biases,
        targets: Targets,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Overwrites `products` by the gradient; returns values and observations per token."""
        # A single row would be compiled anew, since its length cannot vary.
        fused = self.fused and len(products) > 1
        normalize, evaluate, differentiate = _fused(self) if fused else self._plain
        self._let_rows_vary(products, *_tensors(told), *targets)
        known = normalize(products, bias, told, biases)
        for statistics in (known.student, *known.teacher):
            self._let_rows_vary(*statistics)
        values, seen, slopes = evaluate(products, bias, told, biases, known, targets, weights)
        self._let_rows_vary(slopes)
        differentiate(products, bias, told, biases, known, slopes, targets, weights)
        return values, seen

    @property
    def _plain(self) -> tuple[Callable[..., Any], ...]:
        return self.normalize, self.evaluate, self.differentiate

    def normalize(self, products: Tensor, bias: Tensor | None, told: Told, biases: Biases) -> Known:
        """The statistics of both, as far as they have logits."""
        own = _statistics(self.finish(products, bias), self.losses.temperatures)
        if not isinstance(told, tuple):
            return Known(own, ())
        temperatures = self.losses.teacher_temperatures
        theirs = (_statistics(logits, temperatures) for logits in self._finished(told, biases))
        return Known(own, tuple(theirs))

    def evaluate(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        biases: Biases,
        known: Known,
        targets: Targets,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, observations, and the derivative of the weighted sum by the student's log Z."""
        student = self.finish(products, bias) - known.student.top.unsqueeze(-1)
        teacher = self.teacher(told, biases, known.teacher)
        slopes, (values, seen) = torch.func.grad(self._weighted, has_aux=True)(
            known.student.normalizers, student, teacher, targets, weights
        )
        return values, seen, slopes

    def differentiate(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        biases: Biases,
        known: Known,
        slopes: Tensor,
        targets: Targets,
        weights: Tensor,
    ) -> None:
        """Overwrites `products` by the gradient of the weighted sum with respect to them."""
        teacher = self.teacher(told, biases, known.teacher)
        gradient = torch.func.grad(self._surrogate)(
            products, bias, known.student, teacher, slopes, targets, weights
        )
        products.copy_(gradient)

    def _weighted(
        self,
        normalizers: Tensor,
        student: Tensor,
        teacher: Scores | Support | None,
        targets: Targets,
        weights: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The weighted sum as a function of the student's normalisers, its logits held still."""
        values, seen = self._values(student, normalizers, teacher, targets)
        return (weights @ values).sum(), (values, seen)

    def _surrogate(
        self,
        products: Tensor,
        bias: Tensor | None,
        known: Statistics,
        teacher: Scores | Support | None,
        slopes: Tensor,
        targets: Targets,
        weights: Tensor,
    ) -> Tensor:
        """What has the gradient of the weighted sum in the products, normalisers held still."""
        student = self.finish(products, bias) - known.top.unsqueeze(-1)
        values, _ = self._values(student, known.normalizers, teacher, targets)
        total = (weights @ values).sum()
        each = zip(known.normalizers.unbind(-1), slopes.unbind(-1), strict=True)
        for temperature, (own, slope) in zip(self.losses.temperatures, each, strict=True):
            # The derivative of exp(z / T - log Z) at fixed log Z is softmax(z / T) / T.
            softmax = torch.exp(student / temperature - own.unsqueeze(-1))
            total = total + (slope.unsqueeze(-1) * softmax).sum()
        return total

    def _values(
        self, student: Tensor, own: Tensor, teacher: Scores | Support | None, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        scores = Scores(student, dict(zip(self.losses.temperatures, own.unbind(-1), strict=True)))
        values = torch.stack([loss(scores, teacher, targets) for loss in self.losses.losses])
        still = scores.detach()
        seen = [loss(still, teacher, targets) for loss in self.losses.observed]
        return values, torch.stack(seen) if seen else values.new_empty(0, values.shape[1])

    def teacher(
        self, told: Told, biases: Biases, known: tuple[Statistics, ...] = ()
    ) -> Scores | Support | None:
        """The teacher's distribution; its statistics are used where they are known."""
        if not isinstance(told, tuple):
            return told
        finished = self._finished(told, biases)
        if known:
            pairs = zip(finished, known, strict=True)
            members = [self._scores(logits, statistics) for logits, statistics in pairs]
        else:
            members = [Scores(logits) for logits in finished]
        return members[0] if len(members) == 1 else MixedScores(members, self.shares, self.mean)

    def _scores(self, logits: Tensor, known: Statistics) -> Scores:
        each = zip(self.losses.teacher_temperatures, known.normalizers.unbind(-1), strict=True)
        return Scores(logits - known.top.unsqueeze(-1), dict(each))

    def _finished(self, told: tuple[Tensor, ...], biases: Biases) -> list[Tensor]:
        each = zip(self.told_finishes, told, biases, strict=True)
        return [finish(products, bias) for finish, products, bias in each]

    def _let_rows_vary(self, *tensors: Tensor) -> None:
        """Chunks differ in length: without this the second length would compile everything anew."""
        for tensor in tensors if self.fused else ():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)


def _statistics(logits: Tensor, temperatures: tuple[float, ...]) -> Statistics:
    top = logits.amax(-1)
    below = logits - top.unsqueeze(-1)
    normalizers = [torch.exp(below / t).sum(-1).log() for t in temperatures]
    stacked = torch.stack(normalizers, dim=-1) if normalizers else top.new_empty(len(top), 0)
    return Statistics(top, stacked)


def _tensors(told: Told) -> tuple[Tensor, ...]:
    match told:
        case tuple():
            return told
        case Support():
            parts = (told.log_probs, told.ids, told.rest)
            return tuple(part for part in parts if part is not None)
        case None:
            return ()


@functools.cache
def _fused(sweeps: Sweeps) -> tuple[Callable[..., Any], ...]:
    # Isolated, since what is shared is given up for good, silently, after eight sets of losses.
    alone: dict[str, Any] = {"isolate_recompiles": True}  # which the types of 2.13 do not know yet
    return tuple(torch.compile(f, **alone) for f in sweeps._plain)
