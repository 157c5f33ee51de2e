"""The compiled pass against plain autograd. Few sets: each takes seconds to compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exact import HEADS, a_head, a_student, a_teacher, check, distance, losses_of, targets
from torch import Tensor
from torch.nn import functional

from nexus.batch import Targets
from nexus.kernels.chunked_head import chunked_head, observe
from nexus.objectives import observers
from nexus.signals import Head, Headed

pytestmark = pytest.mark.usefixtures("unchecked")

OBSERVED = (observers.forward_kl, observers.agreement_or_tie)


@pytest.mark.parametrize(
    "head, teacher, terms",
    [
        ("all", "headed", ("task", "forward_kl", "jsd")),
        ("plain", "dense", ("reverse_kl", "adaptive_kl", "dkd")),
        ("bias", "mixed", ("forward_kl",)),
        ("padded", "support", ("forward_kl at 1", "reverse_kl at 1")),
        ("softcap", "none", ("task",)),
    ],
)
def test_is_plain_autograd(
    head: str, teacher: str, terms: tuple[str, ...], small_chunks: Callable[[int], None]
) -> None:
    student, said, at = a_student(a_head(**HEADS[head])), a_teacher(teacher), targets()
    observed = OBSERVED if teacher == "headed" else ()
    losses = replace(losses_of(*terms), observed=observed)
    for number in range(len(terms)):
        small_chunks((5, 13, 4)[number % 3])
        weights = torch.zeros(len(terms))
        weights[number] = 1.7
        result = check(student, said, at, losses, weights, fused=True)
    if observed:
        seen = observe(student, said, at, observed)
        torch.testing.assert_close(result.observed, seen, rtol=1e-5, atol=1e-5)


class TestPrecision:
    """bf16 at the size of a real vocabulary, where a fused sum once was 1 % too long."""

    n, vocabulary, width = 48, 151_936, 32

    @pytest.fixture
    def problem(self) -> tuple[Headed, Headed, Targets]:
        both = [
            Headed(
                torch.randn(self.n, self.width).bfloat16(),
                Head((0.5 * torch.randn(self.vocabulary, self.width)).bfloat16()),
            )
            for _ in range(2)
        ]
        for leaf in (both[0].hidden, both[0].head.weight):
            leaf.requires_grad_()
        return both[0], both[1], targets(self.n, self.vocabulary)

    def exact(self, student: Headed, teacher: Headed, at: Targets) -> tuple[Tensor, ...]:
        hidden = student.hidden.detach().float().requires_grad_()
        weight = student.head.weight.detach().float().requires_grad_()
        logits = hidden @ weight.t()
        log_p = (teacher.hidden.float() @ teacher.head.weight.float().t() / 2).log_softmax(-1)
        log_q = (logits / 2).log_softmax(-1)
        kl = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
        task = functional.cross_entropy(logits, at.tokens, reduction="sum")
        total = 0.5 * task + 0.5 * 4 * kl
        return (total.detach(), *torch.autograd.grad(total, (hidden, weight)))

    @pytest.mark.parametrize("fused", [False, True])
    def test_gradients_are_right_in_size_and_direction(
        self, problem: tuple[Headed, Headed, Targets], fused: bool
    ) -> None:
        student, teacher, at = problem
        losses, weights = losses_of("task", "forward_kl"), torch.tensor([0.5, 0.5])
        total, *gradients = self.exact(student, teacher, at)
        result = chunked_head(student, teacher, at, losses, weights, fused=fused)
        result.total.backward()
        assert result.total.item() == pytest.approx(total.item(), rel=1e-4)
        found = (student.hidden.grad, student.head.weight.grad)
        for grad, exact in zip(found, gradients, strict=True):
            assert grad is not None
            assert distance(grad, exact.double()) < 0.004
            assert (grad.double().norm() / exact.double().norm()).item() == pytest.approx(
                1, abs=0.003
            )
