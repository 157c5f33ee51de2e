from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from exact import (
    HEADS,
    TEACHERS,
    TERMS,
    H,
    N,
    V,
    a_head,
    a_student,
    a_teacher,
    check,
    distance,
    logits_of,
    losses_of,
    plain_autograd,
    takes,
    targets,
)
from torch.nn import functional

from nexus.kernels import chunked_head as kernel
from nexus.kernels.chunked_head import Workspace, chunked_head, observe
from nexus.kernels.sweeps import Losses
from nexus.objectives import observers
from nexus.objectives.task import Task
from nexus.signals import Head, Headed

MATRIX = [
    *(("plain", teacher, term) for teacher in TEACHERS for term in TERMS if takes(teacher, term)),
    *((head, "headed", term) for head in list(HEADS)[1:] for term in TERMS),
]


class TestMatrix:
    """Every objective, head and kind of teacher, eagerly."""

    @pytest.mark.parametrize("head, teacher, term", MATRIX)
    def test_is_plain_autograd(
        self, head: str, teacher: str, term: str, small_chunks: Callable[[int], None]
    ) -> None:
        small_chunks(5)
        weights = torch.tensor([1.7])
        student = a_student(a_head(**HEADS[head]))
        check(student, a_teacher(teacher), targets(), losses_of(term), weights)

    @pytest.mark.parametrize("term", TERMS)
    def test_is_plain_autograd_in_bf16(self, term: str) -> None:
        student = a_student(a_head(dtype=torch.bfloat16), dtype=torch.bfloat16)
        weights = torch.tensor([1.0])
        check(student, a_teacher("headed"), targets(), losses_of(term), weights, error=0.03)
        assert student.hidden.grad is not None
        assert student.hidden.grad.dtype == torch.bfloat16
        assert student.head.weight.grad is not None
        assert student.head.weight.grad.dtype == torch.bfloat16

    def test_terms_are_weighted_and_summed(self) -> None:
        student, weights = a_student(a_head(bias=True)), torch.tensor([0.3, 0.0, 2.0])
        losses = losses_of("task", "reverse_kl", "forward_kl")
        result = check(student, a_teacher("headed"), targets(), losses, weights)
        expected = (weights.unsqueeze(1) * result.per_token).sum()
        torch.testing.assert_close(result.total, expected)

    def test_cross_entropy_and_kl_are_those_of_pytorch(self) -> None:
        student, teacher, at = a_student(a_head()), a_teacher("headed"), targets()
        assert isinstance(teacher, Headed)
        losses = losses_of("task", "forward_kl")
        result = chunked_head(student, teacher, at, losses, torch.tensor([0.5, 0.5]))
        logits = logits_of(student.hidden, student.head)
        log_p = (logits_of(teacher.hidden, teacher.head) / 2).log_softmax(-1)
        kl = functional.kl_div(
            (logits / 2).log_softmax(-1), log_p, reduction="none", log_target=True
        )
        expected = [functional.cross_entropy(logits, at.tokens, reduction="none"), 4 * kl.sum(-1)]
        torch.testing.assert_close(
            result.per_token.double(), torch.stack(expected).detach(), rtol=1e-5, atol=1e-5
        )


class TestChunks:
    @pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 100])
    def test_their_number_changes_nothing(
        self, rows: int, small_chunks: Callable[[int], None]
    ) -> None:
        small_chunks(rows)
        student, at = a_student(a_head(bias=True, padding=2)), targets()
        losses, weights = losses_of("task", "forward_kl", "jsd"), torch.tensor([1.0, 0.5, 0.2])
        check(student, a_teacher("headed"), at, losses, weights)

    @pytest.mark.parametrize("block", [1, 7, 37, 64])
    def test_blocks_of_the_vocabulary_change_nothing(
        self, block: int, monkeypatch: pytest.MonkeyPatch, small_chunks: Callable[[int], None]
    ) -> None:
        small_chunks(4)
        monkeypatch.setattr(kernel, "VOCABULARY_BLOCK", block)
        student = a_student(a_head(padding=2))
        check(student, a_teacher("headed"), targets(), losses_of("task"), torch.ones(1))

    def test_one_target(self) -> None:
        student = a_student(a_head(bias=True), n=1)
        check(student, a_teacher("headed", 1), targets(1), losses_of("task"), torch.ones(1))

    @pytest.mark.parametrize("kind", TEACHERS)
    def test_no_targets(self, kind: str) -> None:
        student = a_student(a_head(bias=True, padding=2), n=0)
        losses = Losses((Task().per_token,), (observers.nll,))
        result = chunked_head(student, a_teacher(kind, 0), targets(0), losses, torch.ones(1))
        result.total.backward()
        assert result.total.item() == 0
        assert result.per_token.shape == (1, 0)
        assert result.observed.shape == (1, 0)
        assert student.head.weight.grad is not None
        assert student.head.weight.grad.abs().max() == 0
        assert student.head.bias is not None
        assert student.head.bias.grad is not None
        assert student.head.bias.grad.abs().max() == 0
        seen = observe(student, a_teacher(kind, 0), targets(0), [observers.nll])
        assert seen.shape == (1, 0)

    def test_a_workspace_is_only_memory(self, small_chunks: Callable[[int], None]) -> None:
        small_chunks(5)
        workspace, losses = Workspace(), losses_of("task", "forward_kl")
        weights = torch.ones(2)
        for n in (13, 4, 29):
            student, teacher, at = a_student(a_head(), n), a_teacher("headed", n), targets(n)
            args = (student, teacher, at, losses, weights)
            fresh, reused = chunked_head(*args), chunked_head(*args, workspace=workspace)
            torch.testing.assert_close(fresh.per_token, reused.per_token, rtol=0, atol=0)
            both = [
                torch.autograd.grad(one.total, [student.hidden, student.head.weight])
                for one in (fresh, reused)
            ]
            for one, other in zip(*both, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)


class TestGradients:
    def test_rows_of_padding_have_none(self, small_chunks: Callable[[int], None]) -> None:
        small_chunks(5)
        student = a_student(a_head(bias=True, padding=6))
        losses = losses_of("task", "forward_kl")
        chunked_head(
            student, a_teacher("headed"), targets(), losses, torch.ones(2)
        ).total.backward()
        assert student.head.bias is not None
        for grad in (student.head.weight.grad, student.head.bias.grad):
            assert grad is not None
            assert grad[V:].abs().max() == 0
            assert grad[:V].abs().min() > 0

    def test_what_rows_of_padding_hold_does_not_matter(self) -> None:
        """To see it fail: in kernels/chunked_head.py, `self.vocabulary = of.head.vocabulary` →
        `self.rows, self.vocabulary = of.head.weight.to(dtype), len(of.head.weight)`.
        """
        student = a_student(a_head(bias=True, padding=6))
        at, teacher = targets(), a_teacher("headed")
        losses, weights = losses_of("task", "forward_kl"), torch.ones(2)
        before = chunked_head(student, teacher, at, losses, weights)
        with torch.no_grad():
            student.head.weight[V:] = 1e4
            assert student.head.bias is not None
            student.head.bias[V:] = torch.nan
        after = chunked_head(student, teacher, at, losses, weights)
        torch.testing.assert_close(before.per_token, after.per_token, rtol=0, atol=0)
        (after.total - before.total).backward()
        assert student.head.weight.grad is not None
        assert student.head.weight.grad.abs().max() == 0

    @pytest.mark.parametrize("frozen", ["head", "hidden"])
    def test_what_is_frozen_gets_none_and_the_other_its_own(self, frozen: str) -> None:
        student, teacher, at = a_student(a_head(bias=True)), a_teacher("headed"), targets()
        losses, weights = losses_of("task", "forward_kl"), torch.tensor([1.0, 2.0])
        exact = plain_autograd(student, teacher, at, losses, weights)
        head = student.head
        assert head.bias is not None
        held = [student.hidden] if frozen == "hidden" else [head.weight, head.bias]
        for leaf in held:
            leaf.requires_grad_(False)
        chunked_head(student, teacher, at, losses, weights).total.backward()
        assert all(leaf.grad is None for leaf in held)
        if frozen == "head":
            assert distance(student.hidden.grad, exact.hidden) < 1e-5
        else:
            assert distance(head.weight.grad, exact.weight) < 1e-5
            assert exact.bias is not None
            assert distance(head.bias.grad, exact.bias) < 1e-5

    def test_the_teacher_gets_none(self) -> None:
        student, teacher = a_student(a_head()), a_teacher("headed")
        assert isinstance(teacher, Headed)
        teacher.hidden.requires_grad_()
        teacher.head.weight.requires_grad_()
        losses = losses_of("forward_kl")
        chunked_head(student, teacher, targets(), losses, torch.ones(1)).total.backward()
        assert teacher.hidden.grad is None
        assert teacher.head.weight.grad is None

    def test_is_scaled_by_what_comes_from_above(self) -> None:
        student, teacher, at = a_student(a_head(bias=True)), a_teacher("headed"), targets()
        losses, weights = losses_of("task", "jsd"), torch.ones(2)
        exact = plain_autograd(student, teacher, at, losses, weights)
        (chunked_head(student, teacher, at, losses, weights).total / 128).backward()
        assert distance(student.hidden.grad, exact.hidden / 128) < 1e-5
        assert distance(student.head.weight.grad, exact.weight / 128) < 1e-5

    def test_reaches_what_the_head_is_made_of(self) -> None:
        """A LoRA on the head, and a head tied to something else."""
        base, a, b = torch.randn(V, H), torch.randn(2, H), torch.randn(V, 2)
        leaves = [leaf.requires_grad_() for leaf in (base, a, b)]
        hidden, at = torch.randn(N, H), targets()
        student = Headed(hidden, Head(base + 0.5 * b @ a))
        chunked_head(student, None, at, losses_of("task"), torch.ones(1)).total.backward()
        found = [leaf.grad for leaf in leaves]
        logits = hidden @ (base + 0.5 * b @ a).t()
        expected = torch.autograd.grad(
            functional.cross_entropy(logits, at.tokens, reduction="sum"), leaves
        )
        torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-5)

    def test_adds_to_that_of_another_use(self) -> None:
        student, at = a_student(a_head()), targets()
        for _ in range(2):
            chunked_head(student, None, at, losses_of("task"), torch.ones(1)).total.backward()
        exact = plain_autograd(student, None, at, losses_of("task"), torch.ones(1))
        assert distance(student.hidden.grad, 2 * exact.hidden) < 1e-5

    def test_is_given_once(self) -> None:
        student = a_student(a_head())
        total = chunked_head(student, None, targets(), losses_of("task"), torch.ones(1)).total
        total.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="once"):
            total.backward()

    def test_only_the_total_has_one(self) -> None:
        losses = Losses((Task().per_token,), (observers.nll,))
        result = chunked_head(a_student(a_head()), None, targets(), losses, torch.ones(1))
        assert result.total.requires_grad
        assert not result.per_token.requires_grad
        assert not result.observed.requires_grad
