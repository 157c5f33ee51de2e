"""Grid: a matrix rounded to few evenly spaced values a group, and what it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor

SHRINKS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 0.7, 0.65, 0.6)
"""By what the widest grid may be narrowed: what clipping costs the largest, rounding gains."""

CHUNK = 1 << 16
"""Values that are rounded at once: few enough for a processor's cache."""


@dataclass(frozen=True)
class Grid:
    """Whole numbers, and what a step of each group is worth: `(codes - zero) * scale`."""

    codes: Int8[Tensor, "rows columns"]
    scale: Float[Tensor, "rows groups"]
    zero: Int8[Tensor, "rows groups"] | None
    """The code that stands for zero, where it is not 0."""

    def values(self) -> Float[Tensor, "rows columns"]:
        """What the codes stand for, in the scales' type."""
        rows, groups = self.scale.shape
        codes = self.codes.view(rows, groups, -1).to(self.scale.dtype)
        if self.zero is not None:
            codes = codes - self.zero[..., None].to(self.scale.dtype)
        return (codes * self.scale[..., None]).view(rows, -1)


@torch.no_grad()
def round_to_grid(
    weight: Float[Tensor, "rows columns"],
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = True,
    dtype: torch.dtype | None = None,
    importance: Float[Tensor, " columns"] | None = None,
) -> Grid:
    """Round every group to the nearest of 2^bits values.

    They reach from the group's least to its greatest value (as far to both sides if symmetric) and
    always include zero. No value is off by more than half a step.

    Args:
        weight: finite values.
        bits: of a code; 2 to 8.
        group: neighbours along a row that share a scale, which must divide the row; all if none.
        symmetric: whether the code of zero is 0.
        dtype: of the scales; the weight's if not given. Codes are chosen for scales so rounded.
        importance: by what the squared error of each column counts, which is to be least: narrower
            grids are tried too then, and values beyond their ends are off by more than half a
            step. Where all columns counted alike that would do harm (decision 9).
    """
    size = group or weight.shape[1]
    counts = None if importance is None else importance.float().view(1, -1, size)
    rows = max(1, CHUNK // weight.shape[1])
    found = [
        _best(
            part.float().view(len(part), -1, size), bits, symmetric, dtype or weight.dtype,
            SHRINKS if counts is not None else (1.0,), counts,
        )
        for part in torch.split(weight, rows)
    ]  # fmt: skip
    zero = None if symmetric else torch.cat([one.zero for one in found if one.zero is not None])
    scale = torch.cat([one.scale for one in found])
    return Grid(torch.cat([one.codes for one in found]), scale, zero)


def reach(bits: int) -> tuple[int, int]:
    """The least and the greatest code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def nearest_codes(
    parts: Float[Tensor, "rows groups size"],
    scale: Float[Tensor, "rows groups"],
    zero: Tensor | None,
    bits: int,
) -> Float[Tensor, "rows groups size"]:
    """The codes that stand for the nearest values, as floating-point numbers."""
    codes = (parts / scale.float()[..., None]).round()
    if zero is not None:
        codes = codes + zero.float()[..., None]
    return codes.clamp(*reach(bits))


def _best(
    parts: Tensor,
    bits: int,
    symmetric: bool,
    dtype: torch.dtype,
    shrinks: tuple[float, ...],
    counts: Tensor | None,
) -> Grid:
    """For each group the grid of least squared error among those that are so much narrower."""
    found = _rounded(parts, bits, symmetric, dtype, shrinks[0])
    if len(shrinks) == 1:
        return found
    least = _error(parts, found, counts)
    for shrink in shrinks[1:]:
        tried = _rounded(parts, bits, symmetric, dtype, shrink)
        error = _error(parts, tried, counts)
        found, least = _mixed(error < least, tried, found), torch.minimum(error, least)
    return found


def _error(parts: Tensor, grid: Grid, counts: Tensor | None) -> Tensor:
    squares = (grid.values().float().view_as(parts) - parts).square()
    return (squares if counts is None else squares * counts).sum(-1)


def _rounded(parts: Tensor, bits: int, symmetric: bool, dtype: torch.dtype, shrink: float) -> Grid:
    low, high = reach(bits)
    steps = float(high - low)
    zero = None
    if symmetric:
        scale = _at_least(2 * parts.abs().amax(-1) * shrink / steps, dtype)
    else:
        least, most = parts.amin(-1).clamp(max=0) * shrink, parts.amax(-1).clamp(min=0) * shrink
        scale = _at_least((most - least) / steps, dtype)
        zero = (low - least / scale.float()).round().clamp(low, high).to(torch.int8)
    codes = nearest_codes(parts, scale, zero, bits).to(torch.int8)
    return Grid(codes.flatten(1), scale, zero)


def _at_least(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The next number of a type that is no smaller: else the ends of the widest grids are clipped.

    One where all values are zero.
    """
    scale = exact.to(dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[scale.itemsize]
    above = (scale.view(bits) + 1).view(dtype)  # of what is not negative
    scale = torch.where(scale.to(exact.dtype) < exact, above, scale)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _mixed(which: Tensor, one: Grid, other: Grid) -> Grid:
    """The groups of one where it is said, else those of the other."""
    shape = (*which.shape, -1)
    codes = torch.where(which[..., None], one.codes.view(shape), other.codes.view(shape))
    zero = None
    if one.zero is not None and other.zero is not None:
        zero = torch.where(which, one.zero, other.zero)
    return Grid(codes.flatten(1), torch.where(which, one.scale, other.scale), zero)
