"""Choose: what is kept of a model at some sizes, by its importance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.importance import Scores
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept


def choose(
    scores: Scores, model: PreTrainedModel, sizes: Sizes, layers: tuple[int, ...] | None = None
) -> Kept:
    """What to keep: the highest scores of every axis, in the order in which they lay.

    Groups are kept whole with their heads, and of every group as many heads, the best of it.

    Args:
        scores: of the model.
        model: whose configuration says how long axes are.
        sizes: how long they are to be.
        layers: which layers stay; those of the highest scores if not given.
    """
    before = Sizes.of(model.config, family_of(model))
    if layers is None and sizes.layers < before.layers:
        layers = most_important(scores, sizes.layers)
    if layers is not None and len(layers) != sizes.layers:
        raise UsageError(
            f"{len(layers)} layers are named, but the shape has {sizes.layers}: name as many"
        )
    numbers = range(before.layers) if layers is None else layers

    def by_layer(values: Mapping[int, Tensor], size: int, whole: int) -> dict[int, Tensor]:
        if size == whole:
            return {}
        return {layer: _top(values[layer], size) for layer in numbers if layer in values}

    heads, groups = _attention(scores, before, sizes, numbers)
    return Kept(
        layers=layers,
        hidden=None if sizes.hidden == before.hidden else _top(scores.hidden, sizes.hidden),
        neurons=by_layer(scores.neurons, sizes.neurons, before.neurons),
        heads=heads,
        groups=groups,
        experts=by_layer(scores.experts, sizes.experts, before.experts),
        expert_neurons=by_layer(scores.expert_neurons, sizes.expert_neurons, before.expert_neurons),
    )


def most_important(scores: Scores, count: int) -> tuple[int, ...]:
    """The layers of the highest scores, in the order in which they lie."""
    return tuple(_top(scores.layers, count).tolist())


def _attention(
    scores: Scores, before: Sizes, after: Sizes, numbers: Collection[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    if (before.heads, before.groups) == (after.heads, after.groups):
        return {}, {}
    heads: dict[int, Tensor] = {}
    groups: dict[int, Tensor] = {}
    each, stay = before.heads // before.groups, after.heads // after.groups
    for layer in numbers:
        table = scores.heads[layer].view(before.groups, each)
        whole = scores.groups[layer] if layer in scores.groups else table.sum(1)
        groups[layer] = _top(whole, after.groups)
        inside = torch.stack([_top(table[group], stay) for group in groups[layer].tolist()])
        heads[layer] = (groups[layer][:, None] * each + inside).flatten()
    return heads, groups


def _top(values: Tensor, count: int) -> Tensor:
    """The places of the highest values along the last axis, in increasing order."""
    order = values.float().argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values.cpu()
