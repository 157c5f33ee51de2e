from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import (
    HEADS,
    TEACHERS,
    TERMS,
    H,
    V,
    a_head,
    a_student,
    a_teacher,
    distance,
    logits_of,
    losses_of,
    plain_autograd,
    takes,
    targets,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nexus.batch import Targets
from nexus.kernels.chunked_head import HeadLosses, Workspace, chunked_head, observe
from nexus.kernels.sweeps import Losses
from nexus.objectives import observers
from nexus.signals import Distribution, Headed


class TestAutocast:
    def run(self, student: Headed, teacher: Distribution, at: Targets) -> HeadLosses:
        losses, weights = losses_of("task", "forward_kl"), torch.tensor([0.5, 0.5])
        return chunked_head(student, teacher, at, losses, weights)

    def test_products_are_bf16_and_gradients_those_of_fp32_weights(self) -> None:
        student, teacher, at = a_student(a_head(bias=True)), a_teacher("headed"), targets()
        assert teacher is not None
        with torch.autocast("cpu", torch.bfloat16):
            result = self.run(student, teacher, at)
        result.total.backward()
        assert result.total.dtype == torch.float32
        exact = plain_autograd(
            student, teacher, at, losses_of("task", "forward_kl"), torch.tensor([0.5, 0.5])
        )
        assert 1e-5 < distance(result.per_token, exact.values) < 0.03
        for grad, expected in (
            (student.hidden.grad, exact.hidden),
            (student.head.weight.grad, exact.weight),
        ):
            assert grad is not None
            assert grad.dtype == torch.float32
            assert 1e-5 < distance(grad, expected) < 0.03

    def test_the_teacher_runs_in_it_too(self) -> None:
        student, teacher, at = a_student(a_head()), a_teacher("headed"), targets()
        assert isinstance(teacher, Headed)
        head = teacher.head
        rounded = Headed(
            teacher.hidden.bfloat16(),
            replace(head, weight=head.weight.bfloat16()),
        )
        with torch.autocast("cpu", torch.bfloat16):
            mixed, same = self.run(student, teacher, at), self.run(student, rounded, at)
        torch.testing.assert_close(mixed.per_token, same.per_token, rtol=0, atol=0)

    def test_observing_is_the_same_as_training(self) -> None:
        student, teacher, at = a_student(a_head()), a_teacher("headed"), targets()
        assert teacher is not None
        with torch.autocast("cpu", torch.bfloat16):
            trained = self.run(student, teacher, at)
            terms = [TERMS["task"].per_token, TERMS["forward_kl"].per_token]
            seen = observe(student, teacher, at, terms)
        torch.testing.assert_close(seen, trained.per_token, rtol=1e-6, atol=1e-6)


class TestObserve:
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("teacher", TEACHERS)
    def test_sees_what_training_computes(
        self, head: str, teacher: str, small_chunks: Callable[[int], None]
    ) -> None:
        small_chunks(5)
        student, said, at = a_student(a_head(**HEADS[head])), a_teacher(teacher), targets()
        terms = [TERMS[t].per_token for t in TERMS if takes(teacher, t)]
        result = chunked_head(
            student, said, at, Losses(tuple(terms), tuple(terms)), torch.ones(len(terms))
        )
        seen = observe(student, said, at, terms)
        torch.testing.assert_close(seen, result.per_token, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result.observed, result.per_token, rtol=1e-5, atol=1e-5)
        assert not seen.requires_grad

    def test_shares_a_workspace_with_training(self) -> None:
        student, teacher, at = a_student(a_head()), a_teacher("headed"), targets()
        workspace = Workspace()
        alone = observe(student, teacher, at, [observers.forward_kl])
        chunked_head(
            student, teacher, at, losses_of("task"), torch.ones(1), workspace=workspace
        ).total.backward()
        again = observe(student, teacher, at, [observers.forward_kl], workspace=workspace)
        torch.testing.assert_close(alone, again, rtol=0, atol=0)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any new floating-point tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.elements = max(self.elements, tensor.numel())
        return out


class TestMemory:
    @pytest.mark.parametrize("teacher", ["headed", "support", "mixed", "none"])
    def test_all_logits_are_never_held(
        self, teacher: str, small_chunks: Callable[[int], None]
    ) -> None:
        small_chunks(50)
        n = 2000
        student, said, at = a_student(a_head(), n), a_teacher(teacher, n), targets(n)
        terms = [t for t in ("task", "forward_kl at 1") if takes(teacher, t)]
        losses = replace(losses_of(*terms), observed=(observers.nll,))
        with Largest() as training:
            result = chunked_head(student, said, at, losses, torch.ones(len(terms)))
            result.total.backward()
        with Largest() as watching:
            observe(student, said, at, [observers.nll])
        # The largest thing of all is the hidden states and their gradient.
        assert n * H <= training.elements < n * V / 4
        assert 0 < watching.elements < n * V / 4

    def test_what_plain_autograd_holds_would_be_seen(self) -> None:
        with Largest() as largest:
            logits_of(torch.randn(2000, H), a_head())
        assert largest.elements >= 2000 * V

    def test_the_head_is_cast_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = a_head(4000, 16)
        student = a_student(head)
        casts = []

        class Casts(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                out = func(*args, **(kwargs or {}))
                if func is torch.ops.aten._to_copy.default and out.shape == head.weight.shape:
                    casts.append(out.dtype)
                return out

        with torch.autocast("cpu", torch.bfloat16), Casts():
            chunked_head(
                student, None, targets(v=4000), losses_of("task"), torch.ones(1)
            ).total.backward()
        assert casts == [torch.bfloat16]
