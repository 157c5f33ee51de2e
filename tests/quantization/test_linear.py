"""Packed layers compute what their dequantised weights would."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nexus.quantization.grid import Grid, round_to_grid
from nexus.quantization.linear import DynamicLinear, PackedLinear, filled_up, rounded_tokens
from nexus.quantization.scheme import Scheme, scheme_of

SCHEMES = [
    scheme_of(8),
    scheme_of(8, symmetric=False),
    scheme_of(8, group_size=32),
    scheme_of(4),
    scheme_of(4, group_size=32, symmetric=False),
    scheme_of(4, group_size=16),
    scheme_of(4, group_size="row"),
    scheme_of(3),
    scheme_of(3, symmetric=False),
]


def layer_of(
    scheme: Scheme, dtype: torch.dtype, rows: int = 48, columns: int = 128, bias: bool = True
) -> tuple[PackedLinear, torch.Tensor, torch.Tensor | None]:
    """A layer, and the weight and bias that it stands for."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    added = torch.randn(rows, generator=generator).to(dtype) if bias else None
    grid = round_to_grid(weight, scheme.bits, scheme.group, symmetric=scheme.symmetric)
    return PackedLinear.of(grid, scheme, added), grid.values(), added


def close(found: torch.Tensor, exact: torch.Tensor, most: float) -> bool:
    return float((found.double() - exact).norm() / exact.norm()) <= most


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_kernels_give_what_the_values_give(scheme: Scheme, tokens: int) -> None:
    layer, values, bias = layer_of(scheme, torch.bfloat16)
    assert bias is not None
    x = torch.randn(2, tokens, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = F.linear(x.double(), values.double(), bias.double())
    assert close(layer(x), exact, 0.006)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_in_float32_it_is_exactly_the_product_with_the_values(scheme: Scheme) -> None:
    layer, values, bias = layer_of(scheme, torch.float32)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), F.linear(x, values, bias))
    assert torch.equal(layer.grid().values(), values)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(1, 20), st.sampled_from([3, 4, 8]),
    st.booleans(),
)  # fmt: skip
def test_shapes_that_kernels_refuse_or_crash_on_are_computed_all_the_same(
    rows: int, eights: int, tokens: int, bits: int, symmetric: bool
) -> None:
    scheme = Scheme(scheme=f"int{bits}", group_size=8 if bits < 8 else "row", symmetric=symmetric)
    layer, values, _ = layer_of(scheme, torch.bfloat16, rows, 8 * eights, bias=False)
    x = torch.randn(tokens, 8 * eights, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = F.linear(x.double(), values.double())
    assert close(layer(x), exact, 0.01)


def test_gradients_pass_through_to_what_enters() -> None:
    layer, values, _ = layer_of(scheme_of(4), torch.bfloat16)
    x = torch.randn(4, 128).bfloat16().requires_grad_()
    layer(x).float().sum().backward()
    assert x.grad is not None
    expected = values.double().sum(0).expand(4, -1)
    assert close(x.grad, expected, 0.01)


@pytest.mark.parametrize("scheme", [scheme_of(8), scheme_of(4)], ids=str)
def test_running_a_kernel_changes_nothing_that_is_saved(scheme: Scheme) -> None:
    layer, values, _ = layer_of(scheme, torch.bfloat16)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(1, 128).bfloat16())
    after = layer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(layer.grid().values(), values)
    copied = copy.deepcopy(layer)
    x = torch.randn(1, 128).bfloat16()
    assert torch.equal(copied(x), layer(x))
    other, _, _ = layer_of(scheme, torch.bfloat16)
    other(x)
    other.load_state_dict(before)
    assert torch.equal(other(x), layer(x))


def test_in_another_type_the_kernel_is_left_alone_and_nothing_is_stale() -> None:
    layer, values, bias = layer_of(scheme_of(4), torch.bfloat16)
    x = torch.randn(1, 128)
    layer(x.bfloat16())
    layer.float()
    assert bias is not None
    assert close(layer(x), F.linear(x.double(), values.double(), bias.double()), 0.006)


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_dynamic_layer_multiplies_whole_numbers(tokens: int) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    grid = round_to_grid(weight, 8)
    x = torch.randn(tokens, 40, generator=torch.Generator().manual_seed(1))
    codes, scale = rounded_tokens(x)
    exact = (codes.double() * scale.double()) @ grid.values().double().T
    assert close(DynamicLinear.of(grid)(x), exact, 1e-6)


def test_no_whole_number_overflows() -> None:
    """The largest products there are, and more of them than a row has."""
    grid = Grid(torch.full((8, 4096), -128, dtype=torch.int8), torch.ones(8, 1), None)
    x = torch.full((1, 4096), -1.0)
    codes, scale = rounded_tokens(x)
    exact = 128.0 * float(codes[0, 0].abs()) * 4096 * scale.expand(1, 8)
    torch.testing.assert_close(DynamicLinear.of(grid)(x), exact, rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 100.0]))
def test_each_token_has_its_own_scale_and_is_off_by_half_a_step(seed: int, spread: float) -> None:
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(seed)) * spread
    x[2] = 0
    codes, scale = rounded_tokens(x)
    assert bool(((codes * scale - x).abs() <= 0.5001 * scale).all())
    assert torch.equal(rounded_tokens(x[:1])[0], codes[:1])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_zeros_that_an_accelerator_wants_change_no_product(rows: int, inner: int, out: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    one = torch.randint(-128, 128, (rows, inner), generator=generator, dtype=torch.int8)
    other = torch.randint(-128, 128, (inner, out), generator=generator, dtype=torch.int8)
    left, right = filled_up(one, other)
    assert len(left) > 16 and left.shape[1] % 8 == right.shape[1] % 8 == 0
    found = (left.long() @ right.long())[:rows, :out]
    assert torch.equal(found, one.long() @ other.long())
