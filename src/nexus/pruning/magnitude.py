"""How large the weights are that belong to a channel, a neuron, a head or an expert."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from nexus.pruning.activations import neurons_projection
from nexus.pruning.families import Axes, Family, layers_of
from nexus.pruning.sizes import Sizes, without_number

ByLayer = dict[int, Tensor]


def magnitudes(model: PreTrainedModel, family: Family, sizes: Sizes) -> dict[str, Any]:
    """The L2 norm of all matrix entries that would go along, for every axis, in fp32 on the CPU.

    What decides is how large weights are: without looking at what flows through them this ranks
    neurons of trained language models hardly better than chance.
    """
    found = coupled(
        model, family, sizes, lambda _, weight: _squares(weight) if weight.dim() > 1 else None
    )
    return {
        name: {number: each.sqrt() for number, each in value.items()}
        if isinstance(value, dict)
        else value.sqrt()
        for name, value in found.items()
    }


def coupled(
    model: PreTrainedModel,
    family: Family,
    sizes: Sizes,
    amounts: Callable[[str, Tensor], Tensor | None],
) -> dict[str, Any]:
    """Sums over all entries that would go along with a channel, a neuron, a head, …, by axis.

    Args:
        model: of which weights are looked at one after the other.
        family: its row.
        sizes: its own.
        amounts: of a tensor, by its name, what each entry counts; nothing if it counts not at all.
    """
    prefix, layers = layers_of(model, family)
    total: dict[str, Any] = {
        "layers": torch.zeros(len(layers)),
        "hidden": torch.zeros(sizes.hidden),
        **{name: defaultdict(float) for name in ("neurons", "heads", "groups")},
        **{name: defaultdict(float) for name in ("experts", "expert_neurons")},
    }
    for name, weight in model.named_parameters():
        amount = amounts(name, weight)
        if amount is None:
            continue
        axes = family.axes(without_number(name, prefix))
        total["hidden"] = total["hidden"] + along(amount, axes, "hidden", sizes)
        if not name.startswith(f"{prefix}."):
            continue
        layer = int(name.removeprefix(f"{prefix}.").partition(".")[0])
        total["layers"][layer] += amount.sum().cpu()
        for axis in ("neurons", "heads", "groups", "experts", "expert_neurons"):
            if any(axis in atoms(dim) for dim in axes):
                total[axis][layer] += along(amount, axes, axis, sizes)
    for layer, heads in total["heads"].items():
        total["groups"][layer] += heads.view(sizes.groups, -1).sum(1)
    return total


def projections(model: PreTrainedModel, family: Family, sizes: Sizes) -> dict[str, ByLayer]:
    """The norms of the weights that read each neuron, head or expert neuron, in fp32 on the CPU."""
    prefix, _ = layers_of(model, family)
    wanted = {
        f"{neurons_projection(family)}.weight": "neurons",
        f"{family.heads}.weight": "heads",
        f"{family.neurons}.down_proj": "expert_neurons",
    }
    found: dict[str, ByLayer] = {"neurons": {}, "heads": {}, "expert_neurons": {}}
    for name, weight in model.named_parameters():
        if not name.startswith(f"{prefix}."):
            continue
        number, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        if axis := wanted.get(rest):
            axes = family.axes(without_number(name, prefix))
            found[axis][int(number)] = along(_squares(weight), axes, axis, sizes).sqrt()
    return found


def atoms(axis: str) -> list[str]:
    """What is joined in one axis; of triples, the heads."""
    return ["heads" if atom == "triples" else atom for atom in axis.split("+")]


def _squares(weight: Tensor) -> Tensor:
    return weight.detach().float().square()


def along(amount: Tensor, axes: Axes, axis: str, sizes: Sizes) -> Float[Tensor, ...]:
    """Sums by the index of an axis; of an expert's neurons, by expert and index."""
    count = {"heads": sizes.heads, "groups": sizes.groups}.get(axis)
    total = torch.zeros(())
    for dim, joined in enumerate(axes):
        if axis not in atoms(joined):
            continue
        held = {dim, 0} if axis == "expert_neurons" else {dim}
        others = [other for other in range(amount.dim()) if other not in held]
        sums = (amount.sum(others) if others else amount).cpu()
        names = joined.split("+")
        pieces = torch.split(sums, [sizes.length(name) for name in names], dim=-1)
        for name, piece in zip(names, pieces, strict=True):
            if axis in atoms(name):
                total = total + (piece if count is None else piece.view(count, -1).sum(1))
    return total
