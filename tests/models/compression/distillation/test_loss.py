"""distillation_loss against the definition in float64."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus.errors import UsageError
from nexus.models.compression.distillation import distillation_loss


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(student: Tensor, teacher: Tensor, T: float) -> Tensor:
    log_p = torch.log_softmax(teacher.double() / T, -1)
    log_q = torch.log_softmax(student.double() / T, -1)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


@given(T=st.floats(0.25, 16), seed=st.integers(0, 2**16), rows=st.integers(1, 4))
def test_it_is_t_squared_kl_averaged_over_positions(T: float, seed: int, rows: int) -> None:
    student = logits(rows, 5, 11, seed=seed).requires_grad_()
    teacher = logits(rows, 5, 11, seed=seed + 1).requires_grad_()
    loss = distillation_loss(student, teacher, T=T)
    loss.backward()
    exact = student.detach().double().requires_grad_()
    expected = reference(exact, teacher.detach(), T).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(student.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert teacher.grad is None


def test_the_default_temperature_is_2() -> None:
    student, teacher = logits(4, 9), logits(4, 9, seed=1)
    assert distillation_loss(student, teacher) == distillation_loss(student, teacher, 2.0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_a_mask_of_any_type_picks_positions(dtype: torch.dtype) -> None:
    student, teacher = logits(2, 3, 9), logits(2, 3, 9, seed=1)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    expected = reference(student, teacher, 2.0)[mask == 1].mean()
    loss = distillation_loss(student, teacher, mask=mask.to(dtype))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_to_count_is_no_loss() -> None:
    student = logits(2, 9).requires_grad_()
    loss = distillation_loss(student, logits(2, 9), mask=torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


def test_one_position_needs_no_axis_of_its_own() -> None:
    student, teacher = logits(9), logits(9, seed=1)
    expected = reference(student, teacher, 2.0).item()
    assert distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = logits(4, 9).bfloat16(), logits(4, 9, seed=1).bfloat16()
    expected = reference(student, teacher, 2.0).mean().item()
    assert distillation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_other_divergences_and_their_parameters() -> None:
    student, teacher = logits(4, 9), logits(4, 9, seed=1)
    backwards = reference(teacher, student, 2.0).mean().item()
    reverse = distillation_loss(student, teacher, divergence="reverse_kl").item()
    assert reverse == pytest.approx(backwards, rel=1e-5)
    end = distillation_loss(student, teacher, divergence="jsd", beta=1.0, normalize=True).item()
    assert end == pytest.approx(backwards, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"T": 0.0}, "'temperature' is 0.0"),
        ({"T": -1.0}, "'temperature' is -1.0"),
        ({"divergence": "kl"}, "'kl', but it does not exist. Known: forward_kl"),
        ({"divergence": "dkd"}, "'dkd' needs to know the target tokens: use KnowledgeDistiller"),
        ({"beta": 0.5}, "'beta' means nothing to divergence 'forward_kl'"),
        ({"betta": 0.5}, "unknown key 'betta': did you mean 'beta'"),
        ({"weight": 0.5}, "'weight' is no parameter of divergence 'forward_kl'"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"mask is \(3,\).*positions \(4,\)"),
    ],
)
def test_mistakes_are_refused(arguments: dict[str, Any], message: str) -> None:
    unchecked = inspect.unwrap(distillation_loss)  # as users have it: only tests check shapes
    with pytest.raises(UsageError, match=message):
        unchecked(logits(4, 9), logits(4, 9), **arguments)


@pytest.mark.parametrize("shape", [(4, 10), (3, 9), (9,)])
def test_logits_over_something_else_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"student_logits is \(4, 9\), teacher_logits is"):
        inspect.unwrap(distillation_loss)(logits(4, 9), logits(*shape))
