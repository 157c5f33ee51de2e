"""What a cut takes away can be silenced in the whole model instead, which says the same then."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.pruning.choose import choose
from nexus.pruning.families import FAMILIES, family_of
from nexus.pruning.importance import measure
from nexus.pruning.silenced import silenced, why_not
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept, cut

SLICING = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))
tiny, logits = SLICING["tiny"], SLICING["logits"]


def chosen(model: Any, **smaller: int) -> Kept:
    """A random choice of so many neurons, heads, channels or layers."""
    scores = measure(model, [], strategy="random", seed=1)
    return choose(scores, model, replace(Sizes.of(model.config, family_of(model)), **smaller))


@pytest.mark.parametrize(
    "smaller", [{"neurons": 24}, {"layers": 2}, {"hidden": 36}, {"heads": 4, "groups": 2}], ids=str
)
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_silenced_model_is_the_smaller_one(kind: str, smaller: dict[str, int]) -> None:
    """In every family and along every axis, or it is said why it cannot be."""
    model = tiny(kind)
    if kind == "mixtral" and "neurons" in smaller:
        smaller = {"expert_neurons": 24}
    if FAMILIES[kind].heads_fill_hidden and {"hidden", "heads"} & set(smaller):
        smaller = {"hidden": 32, "heads": 4, "groups": 4}
    kept = chosen(model, **smaller)
    if reason := why_not(model, kept):
        assert reason.endswith("silent or not")
        return
    before = logits(model)
    with silenced(model, kept):
        said = logits(model)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(said, before, atol=1e-4)
    loose = 2e-2 if kept.hidden is not None else 2e-4
    torch.testing.assert_close(logits(cut(model, kept)), said, rtol=loose, atol=loose)


def test_what_cannot_be_silenced_is_named() -> None:
    hidden = torch.arange(32)
    assert "mean of all channels" in why_not(tiny("opt"), Kept(hidden=hidden))
    assert "take a norm" in why_not(tiny("bert"), Kept(layers=(0,)))
    heads = {0: torch.arange(4)}
    assert "queries and keys" in why_not(tiny("olmo2"), Kept(heads=heads))
    assert "router" in why_not(tiny("mixtral"), Kept(experts={0: torch.arange(2)}))
    assert why_not(tiny("llama"), Kept(hidden=hidden, heads=heads, layers=(0,))) == ""


def test_weights_come_back_also_after_an_error() -> None:
    model = tiny("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = chosen(model, neurons=8, hidden=16, layers=1)
    with pytest.raises(RuntimeError, match="stop"), silenced(model, kept):
        assert not all(torch.equal(model.state_dict()[name], was) for name, was in before.items())
        raise RuntimeError("stop")
    assert all(torch.equal(model.state_dict()[name], was) for name, was in before.items())
