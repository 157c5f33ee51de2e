"""Which answers and which weights count as sound."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nexus.signals import Dense, Distribution, Head, Headed, Mixture, Support
from nexus.training.guard import is_finite, largest

BAD = math.nan, math.inf
HIDDEN = torch.tensor([[1.0, -3.0], [2.0, 0.5]])
SCORES = torch.tensor([[-1.0, -math.inf], [-5.0, -2.0]])


def answers(tensor: Tensor) -> list[Distribution]:
    """Whatever a teacher may answer with, from a tensor of two rows and two columns."""
    head = Head(torch.eye(2))
    ids = torch.tensor([[0, 1], [1, 0]])
    return [
        Headed(tensor, head),
        Mixture((Headed(HIDDEN, head), Headed(tensor, head)), (0.5, 0.5)),
        Dense(tensor),
        Support(tensor, ids),
        Support(SCORES, ids, rest=tensor[:, 0]),
    ]


def test_a_sound_answer_has_a_finite_largest_value() -> None:
    assert all(largest(answer).isfinite() for answer in answers(HIDDEN))
    assert largest(answers(HIDDEN)[0]) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", BAD, ids=str)
def test_one_bad_value_anywhere_shows(value: float, dtype: torch.dtype) -> None:
    """To see it fail: in training/guard.py, `torch.linalg.vector_norm(values, ord=torch.inf)` →
    `torch.linalg.vector_norm(values.nan_to_num(), ord=torch.inf)`.
    """
    for place in range(4):
        spoilt = HIDDEN.to(dtype).clone()
        spoilt.view(-1)[place] = value
        found = [largest(answer).isfinite().item() for answer in answers(spoilt)]
        # The mass outside a support is a column of its own.
        assert found == [False, False, False, False, place % 2 == 1]


def test_nothing_is_likely_is_no_answer_but_something_unlikely_is_one() -> None:
    """Log-probabilities of minus infinity fill up rows, and are what a mask leaves behind."""
    hidden, mixture, *others = answers(SCORES)
    assert not largest(hidden).isfinite() and not largest(mixture).isfinite()
    assert all(largest(answer).isfinite() for answer in others)
    empty = torch.full((2, 2), -math.inf)
    assert [largest(answer).isfinite().item() for answer in answers(empty)[2:]] == [
        False, False, True,
    ]  # fmt: skip


def test_answers_about_nothing_are_sound() -> None:
    ids = torch.empty(0, 2, dtype=torch.long)
    nothing = HIDDEN[:0]
    for answer in (Headed(nothing, Head(torch.eye(2))), Dense(nothing), Support(nothing, ids)):
        assert largest(answer) == 0


@pytest.mark.parametrize("value", (*BAD, -math.inf), ids=str)
def test_weights_are_finite_or_not(scene: SimpleNamespace, value: float) -> None:
    student = scene.make_model()
    assert is_finite(student)
    with torch.no_grad():
        student.model.norm.weight[3] = value
    assert not is_finite(student)
