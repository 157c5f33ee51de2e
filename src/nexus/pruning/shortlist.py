"""Shortlist: a few shapes for one target that really differ, for measurement to decide between."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

import numpy as np
from transformers import PreTrainedModel

from nexus.pruning.budget import Cost, Measure
from nexus.pruning.families import Family
from nexus.pruning.search import AXES, Axis, Grid, shapes
from nexus.pruning.sizes import Sizes

POOL = 20_000
"""Of how many shapes, best guesses first, a few are taken."""

WORST = 2.0
"""How many times as much as of the best guess may be expected to be lost."""


def shortlist(
    model: PreTrainedModel,
    family: Family,
    count: int,
    *,
    target: float,
    budget: Measure | Cost = "parameters",
    multiple: int = 32,
    axes: Collection[Axis] = AXES,
) -> list[Sizes]:
    """The best guess, and then each time what differs most from all before it.

    Shapes differ by how their loss is spread over the axes: in what `Grid.dislike` charges for
    each. Far worse guesses are left out. There are fewer than `count` if there are no more.

    Raises:
        UsageError: The target cannot be met; the nearest shape is named.
    """
    pool = shapes(
        model, family, target=target, budget=budget, multiple=multiple, axes=axes, limit=POOL
    )
    grid = Grid(model, family, multiple, axes)
    before = asdict(grid.before)
    values = {name: np.array([float(asdict(one)[name]) for one in pool]) for name in before}
    lost = np.asarray(grid.dislike(values))
    tolerated = np.flatnonzero(lost <= max(WORST * lost[0], 1e-9))
    by_axis = [
        np.asarray(grid.dislike({**_whole(before, len(pool)), axis: values[axis]}))
        for axis in sorted(grid.free)
        if before[axis]
    ]
    places = np.stack(by_axis, axis=1)[tolerated] if by_axis else np.zeros((len(tolerated), 1))
    chosen = [0]
    apart = np.abs(places - places[0]).sum(1)
    while len(chosen) < min(count, len(tolerated)) and apart.max() > 0:
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.abs(places - places[chosen[-1]]).sum(1))
    return [pool[int(tolerated[place])] for place in chosen]


def _whole(before: dict[str, int], count: int) -> dict[str, np.ndarray]:
    return {name: np.full(count, float(size)) for name, size in before.items()}
