"""Which weights are trained and decayed, and rates that bf16 cannot follow."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nexus.errors import UsageError
from nexus.training.optimizer import adamw, refuse_lost_updates


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    groups = adamw(model, 0.1, (0.8, 0.9), 0.5).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.5 for p in group["params"]}
    kept = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}
    assert kept == {id(model[1].weight), id(model[1].bias), id(model[2].bias)}
    assert all(group["lr"] == 0.1 and group["betas"] == (0.8, 0.9) for group in groups)


def test_without_gradient_only_decay_moves_and_it_moves_by_rate_times_decay() -> None:
    model = nn.LayerNorm(4)
    matrix = nn.Linear(4, 4)
    both = nn.ModuleList([model, matrix])
    nn.init.constant_(matrix.weight, 2.0)
    optimizer = adamw(both, 0.1, (0.9, 0.95), 0.5)
    for p in both.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(matrix.weight, torch.full((4, 4), 2.0 * (1 - 0.1 * 0.5)))
    assert torch.equal(model.weight, torch.ones(4))


def test_frozen_weights_are_left_out_and_shared_ones_come_once() -> None:
    model = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    (group,) = adamw(model, 0.1, (0.9, 0.95), 0.0).param_groups
    assert [id(p) for p in group["params"]] == [id(model[0].weight)]


def test_a_student_that_is_frozen_altogether_is_refused() -> None:
    with pytest.raises(UsageError, match="no weight that is trained: unfreeze"):
        adamw(nn.Linear(2, 2).requires_grad_(False), 0.1, (0.9, 0.95), 0.0)


def needed(model: nn.Module) -> float:
    """The rate that the refusal names."""
    with pytest.raises(UsageError) as caught:
        refuse_lost_updates(model, 1e-30)
    message = str(caught.value)
    assert "train.learning_rate is 1e-30" in message and "train.precision: bf16" in message
    return float(re.findall(r"bf16 weights need (\S+) ", message)[0])


@given(scale=st.floats(1e-4, 1e3), seed=st.integers(0, 99))
def test_below_the_rate_named_most_updates_are_lost(scale: float, seed: int) -> None:
    """In bf16's own arithmetic: Adam's first step is the rate, up or down."""
    torch.manual_seed(seed)
    model = nn.Linear(64, 64, bias=False)
    nn.init.normal_(model.weight, std=scale)
    model.to(torch.bfloat16)
    rate = needed(model)
    refuse_lost_updates(model, rate * 1.05)
    weight = model.weight.detach()
    for step in (-0.9 * rate, 0.9 * rate):
        assert ((weight + step) == weight).float().mean() > 0.45
    for step in (-4.5 * rate, 4.5 * rate):
        assert ((weight + step) != weight).float().mean() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_move_at_any_rate(dtype: torch.dtype) -> None:
    refuse_lost_updates(nn.Linear(4, 4).to(dtype), 1e-12)


def test_frozen_bf16_weights_need_not_move() -> None:
    refuse_lost_updates(nn.Linear(4, 4).bfloat16().requires_grad_(False), 1e-12)
