"""The element-wise work on one chunk of logits: three sweeps, derived by autograd, fused if asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nexus.batch import Targets
from nexus.signals import Finish, Head, Scores, Support

Told = Tensor | Support | None
"""What a teacher says of a chunk: logits over the vocabulary, a support, or nothing."""

TokenLoss = Callable[[Scores, Scores | Support | None, Targets], Tensor]
"""(student, teacher, targets) of some positions to one value each."""


Known = tuple[Tensor, tuple[Tensor, ...] | None]
"""Normalisers of the student, [temperatures, n], and of a dense teacher."""


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
    teacher_finish: Finish
    fused: bool

    @classmethod
    def of(cls, losses: Losses, head: Head, teacher: Head | None, fused: bool) -> Sweeps:
        return cls(losses, head.finish, teacher.finish if teacher else Finish(), fused)

    def __call__(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        teacher_bias: Tensor | None,
        targets: Targets,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Overwrites `products` by the gradient; returns values and observations per token."""
        normalize, evaluate, differentiate = _functions(self)
        if self.fused:
            _let_rows_vary(products, told, targets)
        known = normalize(products, bias, told, teacher_bias)
        values, seen, slopes = evaluate(products, bias, told, teacher_bias, known, targets, weights)
        differentiate(products, bias, told, teacher_bias, known, slopes, targets, weights)
        return values, seen

    def normalize(
        self, products: Tensor, bias: Tensor | None, told: Told, teacher_bias: Tensor | None
    ) -> Known:
        """log Z at each temperature: [temperatures, n] of the student, [n] each of the teacher."""
        own = torch.stack(_normalizers(self.finish(products, bias), self.losses.temperatures))
        if not isinstance(told, Tensor):
            return own, None
        theirs = self.teacher_finish(told, teacher_bias)
        return own, _normalizers(theirs, self.losses.teacher_temperatures)

    def evaluate(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        teacher_bias: Tensor | None,
        known: Known,
        targets: Targets,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, observations, and the derivative of the weighted sum by the student's log Z."""
        student = self.finish(products, bias)
        teacher = self._teacher(told, teacher_bias, known[1])

        def weighted(own: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            values, seen = self._values(student, own, teacher, targets)
            return (weights @ values).sum(), (values, seen)

        slopes, (values, seen) = torch.func.grad(weighted, has_aux=True)(known[0])
        return values, seen, slopes

    def differentiate(
        self,
        products: Tensor,
        bias: Tensor | None,
        told: Told,
        teacher_bias: Tensor | None,
        known: Known,
        slopes: Tensor,
        targets: Targets,
        weights: Tensor,
    ) -> None:
        """Overwrites `products` by the gradient of the weighted sum with respect to them."""
        teacher = self._teacher(told, teacher_bias, known[1])

        def surrogate(products: Tensor) -> Tensor:
            student = self.finish(products, bias)
            values, _ = self._values(student, known[0], teacher, targets)
            total = (weights @ values).sum()
            for temperature, own, slope in zip(
                self.losses.temperatures, known[0], slopes, strict=True
            ):
                # The derivative of exp(z / T - log Z) at fixed log Z is softmax(z / T) / T.
                softmax = torch.exp(student / temperature - own.unsqueeze(-1))
                total = total + (slope.unsqueeze(-1) * softmax).sum()
            return total

        products.copy_(torch.func.grad(surrogate)(products))

    def _values(
        self, student: Tensor, own: Tensor, teacher: Scores | Support | None, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        scores = Scores(student, dict(zip(self.losses.temperatures, own, strict=True)))
        values = torch.stack([loss(scores, teacher, targets) for loss in self.losses.losses])
        still = scores.detach()
        seen = [loss(still, teacher, targets) for loss in self.losses.observed]
        return values, torch.stack(seen) if seen else values.new_empty(0, values.shape[1])

    def _teacher(
        self, told: Told, bias: Tensor | None, known: tuple[Tensor, ...] | None
    ) -> Scores | Support | None:
        if not isinstance(told, Tensor):
            return told
        normalizers = dict(zip(self.losses.teacher_temperatures, known or (), strict=True))
        return Scores(self.teacher_finish(told, bias), normalizers)


def _normalizers(logits: Tensor, temperatures: tuple[float, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.logsumexp(logits / t, dim=-1) for t in temperatures)


@functools.cache
def _functions(sweeps: Sweeps) -> tuple[Callable[..., Any], ...]:
    functions = (sweeps.normalize, sweeps.evaluate, sweeps.differentiate)
    return tuple(torch.compile(f) for f in functions) if sweeps.fused else functions


def _let_rows_vary(products: Tensor, told: Told, targets: Targets) -> None:
    """Chunks differ in length: without this the second length would compile everything anew."""
    told_tensors = (told,) if isinstance(told, Tensor) else ()
    for tensor in (products, *told_tensors, *targets):
        if tensor.shape[0] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
