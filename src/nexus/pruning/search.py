"""Search: the shapes that meet a target and that the architecture allows, best guess first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.budget import Budget, Cost, Measure
from nexus.pruning.families import Family
from nexus.pruning.sizes import Sizes

Axis = Literal["neurons", "expert_neurons", "hidden", "layers", "heads", "groups", "experts"]

AXES: tuple[Axis, ...] = ("neurons", "expert_neurons", "hidden", "layers")
"""What is cut unless another choice is made: attention is kept whole (arXiv:2408.11796)."""

TOLERANCE = 0.02
"""How far from its target a shape may be, as a share of it."""

_STEPPED = {"neurons", "expert_neurons", "hidden"}
"""Axes whose sizes are multiples of a number."""

_POINTS = 400_000
"""How many shapes are looked at for each choice of heads and experts."""


def default_shape(
    model: PreTrainedModel,
    family: Family,
    *,
    target: float,
    budget: Measure | Cost = "parameters",
    multiple: int = 32,
    axes: Collection[Axis] = AXES,
) -> Sizes:
    """The first of `shapes`."""
    return shapes(
        model, family, target=target, budget=budget, multiple=multiple, axes=axes, limit=1
    )[0]


def shapes(
    model: PreTrainedModel,
    family: Family,
    *,
    target: float,
    budget: Measure | Cost = "parameters",
    multiple: int = 32,
    axes: Collection[Axis] = AXES,
    limit: int = 100,
    depth: int | None = None,
) -> list[Sizes]:
    """The shapes within 2 % of a target that the architecture allows, best guess first.

    The guess is a rule of thumb: what is cut costs its logarithm times a weight of the axis, least
    for feed-forward neurons, more for the hidden size, and the more the narrower it is, and for
    depth, most for attention. So a deep and narrow model gives neurons first and layers then, and
    a wide one hidden channels as well (arXiv:2407.14679, arXiv:2408.11796).

    Args:
        model: in memory or on the meta device.
        family: its row.
        target: how much of the budget the smaller model may take.
        budget: what is counted, or what counts it.
        multiple: neurons and hidden channels are multiples of it, as quantisers want them, and so
            are all heads or groups together where the model's own are.
        axes: which sizes may change.
        limit: how many to return at most.
        depth: how many layers, if that is known.

    Raises:
        UsageError: The target cannot be met; the nearest shape is named.
    """
    grid = Grid(model, family, multiple, axes, depth=depth)
    if not grid.free:
        raise UsageError(
            f"{model.config.model_type} has no {' and no '.join(axes) or 'axis'} to cut. Choose "
            f"among {', '.join(_axes_of(family))}"
        )
    cost = Budget(model, family, budget) if isinstance(budget, str) else budget
    if not 0 < target <= cost(grid.before):
        raise _no_part(grid, cost, target)

    def dislike(values: Mapping[str, Any]) -> Any:
        off = abs(cost.over(values) / target - 1)
        return np.where(off <= TOLERANCE, grid.dislike(values) + 5 * off, np.inf)

    found = grid.best(dislike, limit)
    if not found:
        raise _out_of_reach(grid, cost, target)
    return found


def explicit_shape(
    model: PreTrainedModel, family: Family, wanted: Mapping[Axis, int], multiple: int = 32
) -> Sizes:
    """The model's sizes with some of them as wanted; others follow where they must.

    Raises:
        UsageError: The architecture has no such axis, or does not allow the shape; the nearest
            that it allows is named.
    """
    for name in wanted:
        if name not in _axes_of(family):
            raise UsageError(
                f"shape.{name} is {wanted[name]}, but {model.config.model_type} has no {name} to "
                f"cut. Choose among {', '.join(_axes_of(family))}"
            )
    grid = Grid(model, family, multiple, tuple(wanted), wanted)

    def distance(values: Mapping[str, Any]) -> Any:
        return sum(
            abs(np.log(values[name] / max(size, 0.5))) for name, size in wanted.items()
        ) + np.zeros(np.shape(values["hidden"]))

    nearest = grid.best(distance, 1)[0]
    if all(asdict(nearest)[name] == size for name, size in wanted.items()):
        return nearest
    asked = ", ".join(f"{name}={size}" for name, size in wanted.items())
    raise UsageError(
        f"{model.config.model_type} cannot be cut to {asked}: sizes are whole, at most the "
        f"model's own, neurons and hidden multiples of {multiple}, as heads and groups times their "
        f"{grid.before.head_dim} entries, and heads fill their groups and the hidden size. The "
        f"nearest that it can: {_named(nearest, wanted)}"
    )


@dataclass(frozen=True)
class Grid:
    """All shapes that an architecture allows, when some axes may change."""

    model: PreTrainedModel
    family: Family
    multiple: int
    axes: Collection[Axis]
    named: Mapping[Axis, int] = field(default_factory=dict)
    """Sizes that are looked at wherever they are allowed; of long axes not all are."""
    depth: int | None = None
    """How many layers, if that is known."""

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise UsageError(
                f"neurons and hidden channels cannot be multiples of {self.multiple}: give 1 or "
                "more; quantisers want 32"
            )

    @cached_property
    def free(self) -> set[Axis]:
        """The axes that may change and that the model has."""
        return set(self.axes) & set(_axes_of(self.family))

    @cached_property
    def before(self) -> Sizes:
        return Sizes.of(self.model.config, self.family)

    def best(self, dislike: Any, limit: int) -> list[Sizes]:
        """Those that are disliked least, where that is finite; of equals the larger first."""
        kept: list[tuple[float, tuple[int, ...], Sizes]] = []
        for block in self._blocks():
            values = np.asarray(dislike(block), dtype=float).ravel()
            order = np.argsort(values, kind="stable")[:limit]
            for place in order[np.isfinite(values[order])]:
                sizes = replace(
                    self.before,
                    **{name: int(np.ravel(array)[place]) for name, array in block.items()},
                )
                kept.append((float(values[place]), tuple(-n for n in _key(sizes)), sizes))
            kept = heapq.nsmallest(limit, kept, key=lambda entry: entry[:2])
        return [sizes for _, _, sizes in kept]

    def dislike(self, values: Mapping[str, Any]) -> Any:
        """How much is expected to be lost by cutting to some sizes."""
        before = self.before
        weights = {
            "neurons": 1.0,
            "expert_neurons": 1.0,
            "experts": 1.5,
            "hidden": 2.0 * max(1.0, 1536 / before.hidden),
            "layers": 3.0,
            "heads": 4.0,
            "groups": 4.0,
        }
        if self.family.width == self.family.expert_width:
            del weights["neurons"]  # which are the experts' own
        gone = {
            name: np.log(getattr(before, name) / values[name])
            for name in weights
            if getattr(before, name)
        }
        beyond_half = sum(
            4 * np.maximum(0, gone[name] - math.log(2)) ** 2
            for name in ("neurons", "expert_neurons")
            if name in gone
        )
        return beyond_half + sum(weights[name] * lost for name, lost in gone.items())

    def _blocks(self) -> Iterator[dict[str, Any]]:
        """The shapes, those of one choice of heads and experts at a time."""
        before = self.before
        layers = np.arange(before.layers, 0, -1) if "layers" in self.free else [before.layers]
        layers = layers if self.depth is None else [self.depth]
        for heads, groups, fixed in self._heads():
            for experts in self._experts():
                same = replace(before, heads=heads, groups=groups, experts=experts)
                hidden = [
                    size
                    for size in ([fixed] if fixed else self._widths("hidden", before.hidden, 64))
                    if self._is_legal(replace(same, hidden=size))
                ]
                if not hidden:
                    continue
                room = self._room(len(layers) * len(hidden))
                names = ("layers", "hidden", "neurons", "expert_neurons")
                mesh = np.meshgrid(
                    layers,
                    hidden,
                    self._widths("neurons", before.neurons, room),
                    self._widths("expert_neurons", before.expert_neurons, room),
                    indexing="ij",
                )
                block = dict(zip(names, (array.astype(float) for array in mesh), strict=True))
                if self.family.width == self.family.expert_width:
                    block["neurons"] = block["expert_neurons"]
                whole = {"heads": heads, "groups": groups, "experts": experts}
                whole["vocabulary"] = before.vocabulary
                yield block | {
                    name: np.full_like(block["hidden"], size) for name, size in whole.items()
                }

    def _room(self, others: int) -> int:
        """How many widths of the network are looked at, so that shapes stay countable."""
        free = len({"neurons", "expert_neurons"} & self.free)
        return max(16, int((_POINTS / others) ** (1 / max(1, free))))

    def _widths(self, name: Axis, whole: int, most: int) -> list[int]:
        if name not in self.free or not whole:
            return [whole]
        step = self.multiple * max(1, math.ceil(whole / self.multiple / most))
        some = {*range(step, whole, step), *range(self.multiple, whole, whole)}
        return self._with_named(name, whole, some, self.multiple)

    def _with_named(self, name: Axis, whole: int, some: set[int], multiple: int) -> list[int]:
        wanted = self.named.get(name, 0)
        fits = wanted % multiple == 0 and multiple <= wanted < whole
        return [whole, *sorted(some | {wanted} if fits else some)]

    def _heads(self) -> Iterator[tuple[int, int, int]]:
        """Heads and groups, with the hidden size where that follows."""
        heads, groups = self.before.heads, self.before.groups
        free = {"heads", "groups"} & self.free
        if self.family.heads_fill_hidden:
            free |= {"hidden"} & self.free
            each = heads // groups
            for some in range(groups, 0, -1) if free else [groups]:
                hidden = some * each * self.before.head_dim
                if hidden % self.multiple == 0 or some == groups:
                    yield some * each, some, hidden
        elif heads == groups:
            counts = range(heads, 0, -1) if free else [heads]
            yield from ((count, count, 0) for count in counts if self._fits(count, heads))
        else:
            each = heads // groups
            for some in range(groups, 0, -1) if "groups" in free else [groups]:
                for per_group in range(each, 0, -1) if "heads" in free else [each]:
                    if self._fits(some, groups) and self._fits(some * per_group, heads):
                        yield some * per_group, some, 0

    def _fits(self, count: int, before: int) -> bool:
        """Whether so many heads or groups are as wide together as quantisers want them: multiples,
        unless the model's own are none."""
        width = self.before.head_dim
        return (count * width) % self.multiple == 0 or (before * width) % self.multiple != 0

    def _experts(self) -> list[int]:
        whole = self.before.experts
        if not whole or "experts" not in self.free:
            return [whole]
        fewest = int(getattr(self.model.config.get_text_config(), "num_experts_per_tok", 1) or 1)
        step = math.ceil((whole - fewest + 1) / 32)
        found = self._with_named("experts", whole, set(range(fewest, whole, step)), 1)
        return [count for count in found if count >= fewest]

    def _is_legal(self, sizes: Sizes) -> bool:
        try:
            sizes.apply(self.model.config, self.family)
        except UsageError:
            return False
        return True


def _axes_of(family: Family) -> tuple[Axis, ...]:
    names = (
        family.names | {"layers"} | ({"heads", "groups"} if "triples" in family.names else set())
    )
    return tuple(axis for axis in get_args(Axis) if axis in names)


def _key(sizes: Sizes) -> tuple[int, ...]:
    return tuple(asdict(sizes).values())


def _named(sizes: Sizes, names: Collection[str]) -> str:
    values = asdict(sizes)
    return ", ".join(f"{name}={values[name]}" for name in names)


def _amount(value: int | float) -> str:
    """A number of something, in full where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.6g}"


def _no_part(grid: Grid, cost: Cost, target: float) -> UsageError:
    """The error for a target that is none of a part, with the largest and the smallest part."""
    most = grid.best(lambda values: -cost.over(values), 1)[0]
    least = grid.best(cost.over, 1)[0]
    changed = [name for name, size in asdict(least).items() if size != asdict(grid.before)[name]]
    small = f"{_amount(cost(least))} ({_named(least, changed or ['layers'])})"
    return UsageError(
        f"A target of {_amount(target)} {cost.unit} cannot be cut out of a model of "
        f"{_amount(cost(grid.before))}. Choose one between {small} and {_amount(cost(most))}"
    )


def _out_of_reach(grid: Grid, cost: Cost, target: float) -> UsageError:
    """The error for a target that no shape meets, with the one that comes nearest."""
    nearest = grid.best(lambda values: abs(cost.over(values) - target), 1)[0]
    changed = [name for name, size in asdict(nearest).items() if size != asdict(grid.before)[name]]
    free = ", ".join(
        f"{axis} (by {grid.multiple}s)" if axis in _STEPPED else axis
        for axis in get_args(Axis)
        if axis in grid.free
    )
    return UsageError(
        f"No shape that {grid.model.config.model_type} allows has {_amount(target)} "
        f"{cost.unit} within {TOLERANCE:.0%}, when {free} may change. The nearest: "
        f"{_named(nearest, changed or ['layers'])} with {_amount(cost(nearest))}"
    )
