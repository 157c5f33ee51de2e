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
        normalize, evaluate, differentiate = _functions(self)
        self._let_rows_vary(products, *_tensors(told), *targets)
        known = normalize(products, bias, told, biases)
        for statistics in (known.student, *known.teacher):
            self._let_rows_vary(*statistics)
        values, seen, slopes = evaluate(products, bias, told, biases, known, targets, weights)
        self._let_rows_vary(slopes)
        differentiate(products, bias, told, biases, known, slopes, targets, weights)
        return values, seen

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

        def weighted(own: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            values, seen = self._values(student, own, teacher, targets)
            return (weights @ values).sum(), (values, seen)

        slopes, (values, seen) = torch.func.grad(weighted, has_aux=True)(known.student.normalizers)
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
        top, normalizers = known.student
        teacher = self.teacher(told, biases, known.teacher)

        def surrogate(products: Tensor) -> Tensor:
            student = self.finish(products, bias) - top.unsqueeze(-1)
            values, _ = self._values(student, normalizers, teacher, targets)
            total = (weights @ values).sum()
            for temperature, own, slope in zip(
                self.losses.temperatures, normalizers.unbind(-1), slopes.unbind(-1), strict=True
            ):
                # The derivative of exp(z / T - log Z) at fixed log Z is softmax(z / T) / T.
                softmax = torch.exp(student / temperature - own.unsqueeze(-1))
                total = total + (slope.unsqueeze(-1) * softmax).sum()
            return total

        products.copy_(torch.func.grad(surrogate)(products))

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
            if tensor.shape[0] > 1:
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
def _functions(sweeps: Sweeps) -> tuple[Callable[..., Any], ...]:
    functions = (sweeps.normalize, sweeps.evaluate, sweeps.differentiate)
    return tuple(torch.compile(f) for f in functions) if sweeps.fused else functions
