"""Probability on rows that stand for no token: measured exactly, and refused in a teacher."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.kernels.lm_head import split_head
from nexus.kernels.padding_mass import MOST_MASS, check_teacher_padding, padding_mass

make_model = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))["make_model"]


@pytest.mark.parametrize("vocabulary", [200, 258])
def test_it_is_the_mass_that_the_whole_softmax_has_there(vocabulary: int) -> None:
    model = make_model(layers=1, seed=3)
    ids = torch.arange(40).reshape(2, 20)
    whole = model(ids).logits.detach()[:, :-1].double().softmax(-1)
    expected = whole[..., vocabulary:].sum(-1).mean()
    found = padding_mass(split_head(model, vocabulary), from_padded(ids))
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert not model.training


def test_without_padding_there_is_none() -> None:
    model = make_model(layers=1, seed=3)
    assert padding_mass(split_head(model, 259), from_padded(torch.arange(9)[None])) == 0


@pytest.mark.parametrize("mass", [MOST_MASS * 1.01, 1.0, float("nan")])
def test_a_teacher_that_uses_its_padding_is_refused(mass: float) -> None:
    with pytest.raises(UsageError, match="gives .* of its probability to head rows beyond"):
        check_teacher_padding(mass)


def test_rounding_is_none() -> None:
    check_teacher_padding(MOST_MASS)
    check_teacher_padding(0.0)
