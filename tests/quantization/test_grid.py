"""Rounding: half a step, exact on the grid, each group by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.quantization.grid import reach, round_to_grid

matrices = st.builds(
    lambda seed, rows, groups, size, spread: (
        torch.randn(rows, groups * size, generator=torch.Generator().manual_seed(seed)) * spread
        + spread * (seed % 3),
        size,
    ),
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    size=st.sampled_from([1, 3, 8]),
    spread=st.sampled_from([1e-4, 1.0, 50.0]),
)
some_bits = st.sampled_from([2, 3, 4, 8])


@settings(max_examples=60, deadline=None)
@given(
    matrices, some_bits, st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_no_value_is_off_by_more_than_half_a_step(
    made: tuple[torch.Tensor, int], bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    """Neither are the ends, whatever scales are rounded to.

    To see it fail: in grid._at_least, return `exact.to(dtype)`.
    """
    weight, group = made
    grid = round_to_grid(weight, bits, group, symmetric=symmetric, dtype=dtype)
    assert grid.scale.dtype == dtype
    steps = grid.scale.float().repeat_interleave(group, 1)
    codes = grid.codes.float()
    if grid.zero is not None:
        codes = codes - grid.zero.float().repeat_interleave(group, 1)
    assert bool(((codes * steps - weight).abs() <= 0.501 * steps).all())
    low, high = reach(bits)
    assert low <= int(grid.codes.min()) and int(grid.codes.max()) <= high


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), some_bits)
def test_values_on_the_grid_stay_as_they_are(seed: int, bits: int) -> None:
    """All the grid's codes are there, so that its ends are the group's."""
    generator = torch.Generator().manual_seed(seed)
    low, high = reach(bits)
    codes = torch.arange(low, high + 1)[torch.randperm(high - low + 1, generator=generator)]
    zero = torch.randint(low, high + 1, (1,), generator=generator)
    weight = ((codes - zero) * 0.125).float()[None]
    grid = round_to_grid(weight, bits, symmetric=False)
    assert torch.equal(grid.values(), weight) and torch.equal(grid.codes[0].long(), codes)


def test_a_symmetric_grid_reaches_as_far_to_both_sides() -> None:
    weight = torch.tensor([[-1.0, 0.25, 3.75], [0.0, 0.0, 0.0]])
    grid = round_to_grid(weight, 4)
    assert torch.equal(grid.scale, torch.tensor([[0.5], [1.0]])) and grid.zero is None
    assert torch.equal(grid.values(), torch.tensor([[-1.0, 0.0, 3.5], [0.0, 0.0, 0.0]]))


@settings(max_examples=40, deadline=None)
@given(matrices, some_bits)
def test_an_asymmetric_grid_covers_both_ends_and_zero(
    made: tuple[torch.Tensor, int], bits: int
) -> None:
    weight, group = made
    grid = round_to_grid(weight, bits, group, symmetric=False)
    parts = weight.view(len(weight), -1, group)
    low, high = (bound * torch.ones_like(grid.scale) for bound in reach(bits))
    assert grid.zero is not None
    least, most = (grid.scale * (end - grid.zero) for end in (low, high))
    half = 0.5001 * grid.scale
    assert bool((least - half <= parts.amin(-1)).all())
    assert bool((parts.amax(-1) <= most + half).all())
    assert bool((least <= 0).all()) and bool((most >= 0).all())


@settings(max_examples=30, deadline=None)
@given(matrices, some_bits, st.booleans(), st.booleans())
def test_a_group_knows_nothing_of_the_others(
    made: tuple[torch.Tensor, int], bits: int, symmetric: bool, search: bool
) -> None:
    weight, group = made
    counts = torch.linspace(0.1, 5, weight.shape[1]) if search else None
    whole = round_to_grid(weight, bits, group, symmetric=symmetric, importance=counts)
    counts = None if counts is None else counts[-group:]
    alone = round_to_grid(weight[-1:, -group:], bits, symmetric=symmetric, importance=counts)
    assert torch.equal(whole.codes[-1:, -group:], alone.codes)
    assert torch.equal(whole.scale[-1:, -1:], alone.scale)


@settings(max_examples=30, deadline=None)
@given(matrices, st.sampled_from([3, 4]), st.booleans())
def test_searching_never_makes_the_squared_error_larger(
    made: tuple[torch.Tensor, int], bits: int, symmetric: bool
) -> None:
    weight, group = made
    importance = torch.linspace(0.1, 5, weight.shape[1])

    def errors(**how: object) -> torch.Tensor:
        found = round_to_grid(weight, bits, group, symmetric=symmetric, **how)  # type: ignore[arg-type]
        squares = (found.values() - weight).square() * importance
        return squares.view(*found.scale.shape, -1).sum(-1)

    assert bool((errors(importance=importance) <= errors() * 1.0001).all())


def test_searching_clips_a_lonely_extreme_that_hardly_counts() -> None:
    weight = torch.linspace(-1, 1, 63)
    weight = torch.cat((weight, torch.tensor([1.6])))[None]
    importance = torch.ones(64)
    importance[-1] = 1e-3
    found = round_to_grid(weight, 3, importance=importance)
    plain = round_to_grid(weight, 3)
    assert float(found.scale) < float(plain.scale)


def test_scales_are_rounded_before_codes_are_chosen() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    grid = round_to_grid(weight, 8, dtype=torch.bfloat16)
    assert grid.scale.dtype == torch.bfloat16
    exact = (weight / grid.scale.float()).round().clamp(-128, 127)
    assert torch.equal(grid.codes.float(), exact)


def test_weights_that_are_all_the_same_need_no_division_by_zero() -> None:
    for symmetric in (True, False):
        found = round_to_grid(torch.zeros(2, 4), 4, symmetric=symmetric).values()
        assert torch.equal(found, torch.zeros(2, 4))
    with pytest.raises(RuntimeError):
        round_to_grid(torch.zeros(2, 5), 4, 4)
