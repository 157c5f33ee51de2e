"""Layers that learn within few bits: they begin and end as what is saved, with the right gradient.

The gradient is that of LSQ: inside a group's reach a scale gets `round(w / s) - w / s` of each
weight's gradient, beyond it the code at the end, and weights get their own inside and none beyond.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from nexus.quantization.grid import reach, round_to_grid
from nexus.quantization.learning import Learned, LearnedLinear, learned_layers, rounded_layers
from nexus.quantization.linear import PackedLinear
from nexus.quantization.quantize import quantize
from nexus.quantization.scheme import Scheme, scheme_of

Make = Callable[..., PreTrainedModel]
WHATS: tuple[Learned, ...] = ("scales", "weights")


def packed(
    weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
) -> PackedLinear:
    """Rounded with scales in 16 bits, and then held in 32, as it is loaded to be trained."""
    grid = round_to_grid(
        weight, scheme.bits, scheme.group, symmetric=scheme.symmetric,
        dtype=torch.bfloat16, importance=importance,
    )  # fmt: skip
    layer = PackedLinear.of(grid, scheme)
    layer.weight_scale = layer.weight_scale.float()
    return layer


def moved(layer: LearnedLinear, seed: int = 0) -> LearnedLinear:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return layer


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    bits=st.sampled_from([3, 4, 8]),
    symmetric=st.booleans(),
    fitted=st.booleans(),
    what=st.sampled_from(WHATS),
    size=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_a_layer_begins_as_rounding_has_left_it(
    seed: int, bits: int, symmetric: bool, fitted: bool, what: Learned, size: float
) -> None:
    torch.manual_seed(seed)
    weight = size * torch.randn(6, 64)
    weight[0] = 0
    layer = packed(
        weight, scheme_of(bits, group_size=32, symmetric=symmetric),
        torch.rand(64) if fitted else None,
    )  # fmt: skip
    learned = LearnedLinear(layer, weight if what == "weights" else None)
    assert torch.equal(learned.values(), layer.grid().values())
    x = torch.randn(5, 64)
    assert torch.equal(learned(x), layer(x))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), bits=st.sampled_from([3, 4, 8]), symmetric=st.booleans(),
    what=st.sampled_from(WHATS),
)  # fmt: skip
def test_what_is_saved_computes_what_was_trained(
    seed: int, bits: int, symmetric: bool, what: Learned
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(6, 64)
    layer = packed(weight, scheme_of(bits, group_size=32, symmetric=symmetric))
    learned = moved(LearnedLinear(layer, weight if what == "weights" else None), seed)
    saved = learned.rounded()
    assert saved.weight_scale.dtype is torch.bfloat16
    if what == "scales":
        assert torch.equal(saved.weight_packed, layer.weight_packed)
    saved.weight_scale = saved.weight_scale.float()
    assert torch.equal(saved.grid().values(), learned.values())


def test_a_scale_gets_the_gradient_of_what_its_codes_stand_for() -> None:
    """Against the closed form, and against finite differences in float64."""
    weight, entering = torch.randn(4, 64), torch.randn(7, 64)
    layer = packed(weight, scheme_of(4, group_size=32, symmetric=False))
    learned = LearnedLinear(layer, saved=torch.float32)
    learned(entering).square().sum().backward()
    out = entering @ layer.grid().values().T
    per_value = 2 * out.T @ entering
    values = layer.grid().values()
    # d value / d growth is the value itself.
    expected = (per_value * values).view(4, 2, 32).sum(-1)
    assert learned.growth.grad is not None
    torch.testing.assert_close(learned.growth.grad, expected, rtol=1e-4, atol=1e-3)

    def loss(growth: torch.Tensor) -> torch.Tensor:
        scaled = values.double().view(4, 2, 32) * growth.exp()[..., None]
        return (entering.double() @ scaled.view(4, 64).T).square().sum()

    step, at = 1e-6, torch.zeros(4, 2, dtype=torch.float64)
    for row, group in ((0, 0), (3, 1)):
        shift = at.clone()
        shift[row, group] = step
        slope = float((loss(shift) - loss(-shift)) / (2 * step))
        assert float(learned.growth.grad[row, group]) == pytest.approx(slope, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradients_of_weights_and_scales_are_those_of_lsq(symmetric: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 64)
    importance = torch.rand(64).square()  # so that some weights lie beyond the ends
    layer = packed(weight, scheme_of(3, group_size=32, symmetric=symmetric), importance)
    learned = LearnedLinear(layer, weight, saved=torch.float32)
    coming = torch.randn(4, 64)
    (learned.values() * coming).sum().backward()
    grid = layer.grid()
    low, high = reach(3)
    zero = torch.zeros(4, 2, 1) if grid.zero is None else grid.zero[..., None].float()
    exact = weight.view(4, 2, 32) / grid.scale[..., None]
    unclamped = exact.round() + zero
    inside = (unclamped >= low) & (unclamped <= high)
    assert not inside.all()
    assert learned.weight is not None and learned.weight.grad is not None
    torch.testing.assert_close(learned.weight.grad, coming * inside.view(4, 64))
    steps = unclamped.clamp(low, high) - zero
    per_scale = torch.where(inside, exact.round() - exact, steps)
    expected = (per_scale * coming.view(4, 2, 32)).sum(-1) * grid.scale
    torch.testing.assert_close(learned.growth.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", WHATS)
def test_of_a_model_nothing_else_learns(make: Make, ids: torch.Tensor, what: Learned) -> None:
    whole = make(attention_bias=True)
    few = quantize(whole, Scheme(scheme="int4", group_size=32)).model
    with torch.no_grad():
        before = few(input_ids=ids).logits
    learned = learned_layers(few, what, whole, torch.float32)
    after = learned(input_ids=ids).logits
    assert torch.equal(after, before)
    after.square().mean().backward()
    trained = {name.rpartition(".")[2] for name, p in learned.named_parameters() if p.requires_grad}
    assert trained == ({"growth"} if what == "scales" else {"growth", "weight"})
    for name, parameter in learned.named_parameters():
        inside = isinstance(learned.get_submodule(name.rpartition(".")[0]), LearnedLinear)
        is_trained = inside and not name.endswith("bias")
        assert (parameter.grad is not None) == is_trained == parameter.requires_grad


@pytest.mark.parametrize("what", WHATS)
def test_a_model_comes_back_as_an_ordinary_one_in_few_bits(
    make: Make, ids: torch.Tensor, what: Learned
) -> None:
    whole = make()
    found = quantize(whole, Scheme(scheme="int3", group_size=32), dtype=torch.bfloat16)
    few = found.model
    nn.Module.to(few, torch.float32)
    learned_layers(few, what, whole)
    for part in few.modules():
        if isinstance(part, LearnedLinear):
            moved(part)
    with torch.no_grad():
        trained = few(input_ids=ids).logits
    names = rounded_layers(few)
    assert names == found.layers
    assert few.dtype is torch.bfloat16
    assert few.state_dict().keys() == quantize(whole, found.scheme).model.state_dict().keys()
    nn.Module.to(few, torch.float32)
    with torch.no_grad():
        assert torch.equal(few(input_ids=ids).logits, trained)


def test_a_layer_learns_under_autocast() -> None:
    weight = torch.randn(64, 64)
    layer = packed(weight, scheme_of(4, group_size=32))
    learned = LearnedLinear(layer, weight)
    x = torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = learned(x)
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16 and learned.growth.grad is not None
