"""Target: how large a smaller model may be, of which budget, and the shape that meets it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.budget import UNITS, Budget, Cost
from nexus.pruning.families import Family
from nexus.pruning.latency import Latency, latency_shape
from nexus.pruning.search import AXES, TOLERANCE, Axis, default_shape, shapes
from nexus.pruning.sizes import Sizes
from nexus.spec import nearest

BudgetName = Literal["parameters", "without_embeddings", "bytes", "flops", "latency"]
"""What a target counts: all parameters, those without embedding and head, bytes of the weights as
they are saved, FLOPs of a token's forward pass, or measured milliseconds per token."""
BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)


def number_of_parameters(count: float) -> float:
    """The same, if it can be one.

    Raises:
        ValueError: It is at most 1, and so rather meant as a share.
    """
    if not count > 1:
        share = count if count > 0 else 0.75
        raise ValueError(
            f"{count:,.10g} is no number of parameters, which is above 1: give 80e6, say, or for a "
            f"share of the model target: {share:g} in its place"
        )
    return count


@dataclass(frozen=True)
class Types:
    """What weights are held in where a budget is counted; the larger model's own if not given."""

    saved: torch.dtype | None = None
    """What the smaller model is saved in at the end, which bytes are counted in."""
    timed: torch.dtype | None = None
    """What a latency is timed in."""


@dataclass(frozen=True)
class Target:
    """So much of a budget; up to 1, a share of what the model itself takes."""

    amount: float
    budget: BudgetName = "parameters"
    types: Types = Types()

    @classmethod
    def asked(
        cls,
        target_params: float | None,
        target: float | None = None,
        budget: BudgetName = "parameters",
    ) -> Target | None:
        """What one of two ways of asking names, if either is used.

        Raises:
            UsageError: It is not positive, or a number of parameters that is at most 1.
        """
        try:
            if target_params is not None:
                return cls(float(number_of_parameters(target_params)))
        except ValueError as error:
            raise UsageError(f"target_params: {error}") from None
        if target is None:
            return None
        if not target > 0:
            raise UsageError(
                f"target {target:g} is no size: give a share of the model, as 0.75, or an amount "
                f"of {Latency.unit if budget == 'latency' else UNITS[budget]}"
            )
        return cls(float(target), budget)

    def saved_in(self, dtype: torch.dtype | None) -> Target:
        """The same for a model that is made in a type, unless it is saved in another in the end."""
        saved = self.types.saved or dtype
        return replace(self, types=replace(self.types, saved=saved))

    def cost(
        self,
        model: PreTrainedModel,
        family: Family,
        *,
        multiple: int = 32,
        axes: Collection[Axis] = AXES,
    ) -> Cost:
        """What counts the budget. Latency is measured for it; a model without weights has none, and
        its FLOPs stand in for it.

        Raises:
            UsageError: Latency is asked for, but the model writes no text.
        """
        if self.budget != "latency":
            return Budget(model, family, self.budget, self.types.saved)
        if is_hollow(model):
            return Budget(model, family, "flops")
        return Latency(model, family, multiple=multiple, axes=axes, dtype=self.types.timed)

    def whole(self, cost: Cost, model: PreTrainedModel, family: Family) -> float:
        """What the model itself takes, in the budget's unit; bytes in the type that it is in, and
        of latency what was measured."""
        if isinstance(cost, Latency):
            return cost.own
        before = Sizes.of(model.config, family)
        if isinstance(cost, Budget) and cost.measure == "bytes":
            cost = Budget(model, family, "bytes")
        return float(cost(before))

    def value(self, whole: float) -> float:
        """In the budget's unit, of which the model takes so much."""
        return self.amount * whole if self.amount <= 1 else self.amount

    def absolute(self, model: PreTrainedModel, family: Family) -> Target:
        """In the budget's unit, so that it means the same once the model has fewer tokens.

        Raises:
            UsageError: It is a share of the time that the model takes for a token.
        """
        if self.amount > 1:
            return self
        if self.budget == "latency":
            raise UsageError(
                f"target {self.amount:g} of latency is a share of the whole model's time, which is "
                "not known once the vocabulary is cut: give milliseconds a token"
            )
        whole = self.whole(Budget(model, family, self.budget), model, family)
        return replace(self, amount=self.value(whole))


@dataclass(frozen=True)
class Met:
    """A shape for a target, and what it takes of the budget."""

    budget: BudgetName
    sizes: Sizes
    cost: Cost
    wanted: float
    """In the budget's unit, like the next two."""
    taken: float
    """Counted, or of latency really measured."""
    whole: float
    """What the model takes that is cut."""

    @property
    def facts(self) -> dict[str, str | float]:
        """For a record: everything in the budget's unit."""
        return {
            "budget": self.budget,
            "unit": self.cost.unit,
            "wanted": self.wanted,
            "taken": self.taken,
            "whole": self.whole,
        }


def meet(
    target: Target,
    model: PreTrainedModel,
    family: Family,
    *,
    multiple: int = 32,
    axes: Collection[Axis] = AXES,
) -> Met:
    """The best guess of a shape for a target; the shape of a latency is measured.

    Args:
        target: the target.
        model: in memory; or without weights, where a latency can only be guessed: a share of it by
            FLOPs, and of milliseconds no more than that it is at most the model itself.
        family: its row.
        multiple: neurons and hidden channels are multiples of it.
        axes: which sizes may change.

    Raises:
        UsageError: The target cannot be met; the nearest shape is named.
    """
    before = Sizes.of(model.config, family)
    cost = target.cost(model, family, multiple=multiple, axes=axes)
    whole = target.whole(cost, model, family)
    wanted = target.value(whole)
    if target.budget == "latency" and is_hollow(model) and target.amount > 1:
        return Met(target.budget, before, cost, whole, whole, whole)

    def shape(amount: float) -> Sizes:
        return default_shape(
            model, family, target=amount, budget=cost, multiple=multiple, axes=axes
        )

    if isinstance(cost, Latency):
        sizes, taken = latency_shape(cost, wanted, shape)
        return Met(target.budget, sizes, cost, wanted, taken, cost.own)
    sizes = shape(wanted)
    return Met(target.budget, sizes, cost, wanted, cost(sizes), whole)


def fitted(
    met: Met,
    model: PreTrainedModel,
    family: Family,
    choice: Callable[[int], tuple[int, ...] | None],
    *,
    multiple: int = 32,
    axes: Collection[Axis] = AXES,
) -> Met:
    """A shape for a target, where layers are of two kinds and it is known which would be kept.

    Until then layers cost what they do on average. Now the other sizes change until the very layers
    kept meet the target; if they cannot, there are more layers, or fewer. A latency is measured
    anew.

    Args:
        met: the shape for the average.
        model: what is cut.
        family: its row.
        choice: which layers stay, by how many; nothing if all do.
        multiple: as of `meet`, like `axes`.

    Raises:
        UsageError: The target cannot be met; the nearest shape is named.
    """
    cost, before = met.cost, Sizes.of(model.config, family)
    if not isinstance(cost, Budget | Latency) or cost.is_even:
        return met
    if isinstance(cost, Latency):
        return replace(met, taken=cost.measure(met.sizes, choice(met.sizes.layers)))
    count, turned, refused = met.sizes.layers, 0, ""
    while 1 <= count <= before.layers:
        layers = choice(count) or tuple(range(before.layers))
        exact = cost.of(layers)
        try:
            sizes = met.sizes
            if count != sizes.layers or abs(exact(sizes) / met.wanted - 1) > TOLERANCE:
                sizes = shapes(
                    model, family, target=met.wanted, budget=exact, multiple=multiple, axes=axes,
                    limit=1, depth=count,
                )[0]  # fmt: skip
            return replace(met, sizes=sizes, cost=exact, taken=float(exact(sizes)))
        except UsageError as error:
            named = ", ".join(map(str, layers))
            refused = refused or f"With the layers {named}, of two kinds: {error}"
        step = 1 if exact(replace(before, layers=count)) < met.wanted else -1
        if "layers" not in axes or step == -turned:
            break
        count, turned = count + step, step
    raise UsageError(refused)


def is_hollow(model: PreTrainedModel) -> bool:
    """Whether of a model's weights only the shapes are there."""
    return any(weight.is_meta or isinstance(weight, FakeTensor) for weight in model.parameters())


def budget_named(name: str) -> BudgetName:
    """A budget by its name.

    Raises:
        UsageError: There is none of that name.
    """
    for budget in BUDGETS:
        if budget == name:
            return budget
    raise UsageError(f"budget '{name}' is unknown{nearest(name, BUDGETS)}")
