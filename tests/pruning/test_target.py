"""A target is met in the budget that it names, and a share is one of the model itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.errors import UsageError
from nexus.pruning.budget import Budget
from nexus.pruning.families import family_of
from nexus.pruning.latency import Latency
from nexus.pruning.slice import blank
from nexus.pruning.target import BUDGETS, Target, budget_named, fitted, meet

TINY = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))["tiny"]


@pytest.mark.parametrize("budget", [one for one in BUDGETS if one != "latency"])
def test_a_share_and_the_amount_that_it_is_give_the_same_shape(budget: str) -> None:
    model = TINY("llama")
    family = family_of(model)
    by_share = meet(Target(0.75, budget), model, family, multiple=2)  # type: ignore[arg-type]
    whole = by_share.whole
    by_amount = meet(Target(0.75 * whole, budget), model, family, multiple=2)  # type: ignore[arg-type]
    assert by_share.sizes == by_amount.sizes
    assert abs(by_share.taken / (0.75 * whole) - 1) <= 0.02
    made = blank(model, family, by_share.sizes, torch.float32)
    assert Budget(made, family, budget)(by_share.sizes) == by_share.taken  # type: ignore[arg-type]


def test_latency_is_measured_unless_there_are_no_weights() -> None:
    model = TINY("llama").to("meta")
    assert isinstance(Target(0.5, "latency").cost(model, family_of(model)), Budget)
    model = TINY("llama")
    assert isinstance(Target(0.5, "latency").cost(model, family_of(model), multiple=8), Latency)


@pytest.mark.parametrize("first", [True, False])
def test_layers_of_two_kinds_that_cannot_meet_it_are_named_with_the_nearest(first: bool) -> None:
    """Four layers meet it on average; of those that would stay, four are too little or too much,
    and the next number too."""
    model = TINY("qwen3_moe", num_hidden_layers=6, mlp_only_layers=[0, 1], intermediate_size=16)
    limits: dict[str, Any] = {"multiple": 4, "axes": ("layers",)}
    family, asked = family_of(model), []
    met = meet(Target(74_352.0), model, family, **limits)
    assert met.sizes.layers == 4 and met.taken == met.wanted

    def choice(count: int) -> tuple[int, ...]:
        asked.append(count)
        return tuple(range(count) if first else range(6 - count, 6))

    with pytest.raises(UsageError) as caught:
        fitted(met, model, family, choice, **limits)
    said = "0, 1, 2, 3" if first else "2, 3, 4, 5"
    nearest = "66,544" if first else "89,968"
    assert f"With the layers {said}, of two kinds: No shape" in str(caught.value)
    assert nearest in str(caught.value) and "\n" not in str(caught.value)
    assert asked == ([4, 5] if first else [4, 3])


@pytest.mark.parametrize("count", [0.8, 1.0, 0.0, -5.0, float("nan")])
def test_a_number_of_parameters_is_no_share(count: float) -> None:
    with pytest.raises(UsageError, match="is no number of parameters.*target: (0.8|1|0.75) in its"):
        Target.asked(count)
    assert Target.asked(80e6) == Target(80e6) and Target.asked(None) is None


def test_a_target_is_positive() -> None:
    with pytest.raises(UsageError, match="target -2 is no size.*amount of bytes"):
        Target.asked(None, -2.0, "bytes")


def test_an_unknown_budget_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'flops'"):
        budget_named("flop")
    with pytest.raises(UsageError, match="bytes cannot be cut out of a model of"):
        model = TINY("llama")
        meet(Target(1e12, "bytes"), model, family_of(model))
