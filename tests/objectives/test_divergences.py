from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus.objectives.divergences import DIVERGENCES

N, V = 6, 11


def logits(scale: float = 2.0, n: int = N, v: int = V) -> tuple[Tensor, Tensor, Tensor]:
    """Of a teacher and a student, in float64, with a target in each row."""
    return (
        scale * torch.randn(n, v, dtype=torch.float64),
        scale * torch.randn(n, v, dtype=torch.float64),
        torch.randint(v, (n,)),
    )


def evaluate(row: Any, teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    entry = DIVERGENCES[row.divergence]
    extra = (targets,) if entry.reads_targets else ()
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    return entry.function(log_p, log_q, *extra, **row.parameters)


def gradient(row: Any, teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    evaluate(row, teacher, student, targets).sum().backward()
    assert student.grad is not None
    return student.grad


def reference(row: Any, teacher: Tensor, student: Tensor, targets: Tensor, still: Tensor) -> Any:
    p, q, s = (x.double().softmax(-1).numpy() for x in (teacher, student, still))
    return row.value(p, q, targets.numpy(), s)


def reference_gradient(row: Any, teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    """Central differences of the float64 formula."""
    student, step = student.double(), 1e-5
    columns = []
    for column in range(student.shape[1]):
        up, down = student.clone(), student.clone()
        up[:, column] += step
        down[:, column] -= step
        change = reference(row, teacher, up, targets, student) - reference(
            row, teacher, down, targets, student
        )
        columns.append(torch.from_numpy(change / (2 * step)))
    return torch.stack(columns, dim=1)


def test_every_divergence_has_a_reference(rows: list[Any]) -> None:
    assert {row.divergence for row in rows} == set(DIVERGENCES)


class TestTable:
    def test_value_is_the_formula(self, row: Any) -> None:
        """To see it fail: in objectives/divergences.py, `return (log_p.exp() * (log_p -
        log_q)).sum(-1)` → `return (log_p.exp() * (log_p - log_q)).mean(-1)`.
        """
        teacher, student, targets = logits()
        expected = reference(row, teacher, student, targets, student)
        value = evaluate(row, teacher, student, targets)
        assert value.shape == (N,)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-9)

    def test_gradient_is_that_of_the_formula(self, row: Any) -> None:
        teacher, student, targets = logits()
        expected = reference_gradient(row, teacher, student, targets)
        torch.testing.assert_close(
            gradient(row, teacher, student, targets), expected, rtol=1e-5, atol=1e-8
        )

    def test_equal_distributions_have_no_value_and_no_gradient(self, row: Any) -> None:
        teacher, _, targets = logits()
        assert evaluate(row, teacher, teacher, targets).abs().max() < 1e-12
        assert gradient(row, teacher, teacher, targets).abs().max() < 1e-12

    def test_different_distributions_have_both(self, row: Any) -> None:
        teacher, student, targets = logits()
        assert evaluate(row, teacher, student, targets).min() > 1e-4
        assert gradient(row, teacher, student, targets).norm(dim=1).min() > 1e-5

    def test_a_constant_added_to_a_row_changes_nothing(self, row: Any) -> None:
        teacher, student, targets = logits()
        shift = 100 * torch.randn(2, N, 1, dtype=torch.float64)
        torch.testing.assert_close(
            evaluate(row, teacher + shift[0], student + shift[1], targets),
            evaluate(row, teacher, student, targets),
        )
        # So the gradient of a row sums to zero.
        assert gradient(row, teacher, student, targets).sum(1).abs().max() < 1e-12

    def test_renumbering_the_vocabulary_changes_nothing(self, row: Any) -> None:
        teacher, student, targets = logits()
        order = torch.randperm(V)
        renumbered = evaluate(row, teacher[:, order], student[:, order], order.argsort()[targets])
        torch.testing.assert_close(renumbered, evaluate(row, teacher, student, targets))
        if row.divergence == "dkd":
            other = evaluate(row, teacher, student, (targets + 1) % V)
            assert not torch.allclose(other, renumbered)

    def test_the_teacher_gets_no_share_of_other_rows(self, row: Any) -> None:
        teacher, student, targets = logits()
        whole = evaluate(row, teacher, student, targets)
        for i in range(N):
            part = slice(i, i + 1)
            alone = evaluate(row, teacher[part], student[part], targets[part])
            torch.testing.assert_close(alone, whole[part])

    @pytest.mark.parametrize("offset", [0.0, 25.0])
    def test_fp32_is_right_where_the_student_has_nearly_converged(
        self, row: Any, offset: float
    ) -> None:
        teacher, _, targets = logits(3.0, n=64, v=50)
        gap = 1e-3 * (0.5 + torch.rand_like(teacher)) * (torch.rand_like(teacher) - 0.5).sign()
        teacher, student = (teacher + offset).float(), (teacher + offset + gap).float()
        apart = teacher.double().log_softmax(-1) - student.double().log_softmax(-1)
        settled = apart.abs().amin(-1) > 1e-5  # total variation asks for a sign
        teacher, student, targets = teacher[settled], student[settled], targets[settled]
        assert len(targets) > 20
        exact = gradient(row, teacher.double(), student.double(), targets)
        error = (gradient(row, teacher, student, targets).double() - exact).norm() / exact.norm()
        assert error < 0.005

    @given(
        st.floats(0.01, 30), st.floats(0, 3), st.integers(0, 2**31), st.sampled_from([2, 17, 4096])
    )
    def test_divergences_are_not_negative(
        self, row: Any, scale: float, gap: float, seed: int, v: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        teacher = scale * torch.randn(2, v, generator=generator)
        student = teacher + gap * torch.randn(2, v, generator=generator)
        value = evaluate(row, teacher, student, torch.zeros(2, dtype=torch.long))
        assert value.isfinite().all()
        weights = [each for each in row.parameters.values() if isinstance(each, float)]
        assert value.min() >= -1e-6 * max(1.0, *weights, value.abs().max().item())


def test_each_row_names_its_own_parameters() -> None:
    assert DIVERGENCES["forward_kl"].parameters == frozenset()
    assert DIVERGENCES["jsd"].parameters == {"beta", "normalize"}
    assert DIVERGENCES["dkd"].parameters == {"target_weight", "rest_weight"}
