"""A model in which all that a cut takes away is silent: it says what the smaller one says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.pruning.families import family_of
from nexus.pruning.slice import Kept, removed


@contextmanager
def silenced(model: PreTrainedModel, kept: Kept) -> Iterator[None]:
    """Set to zero what is not kept of a model, and put it back afterwards, bit for bit.

    Memory is taken for what is set to zero alone.
    """
    before: list[tuple[Tensor, int, Tensor, Tensor]] = []
    with torch.no_grad():
        try:
            for value, dim, gone in removed(model, kept):
                index = gone.to(value.device)
                before.append((value, dim, index, value.index_select(dim, index)))
                value.index_fill_(dim, index, 0.0)
            yield
        finally:
            for value, dim, index, was in reversed(before):
                value.index_copy_(dim, index, was)


def why_not(model: PreTrainedModel, kept: Kept) -> str:
    """Why the silenced model is not the smaller one, though the cut may be right; else nothing.

    Where a mean or a softmax runs over all channels, heads or experts, silent ones still count.
    """
    family = family_of(model)
    centred = any(isinstance(part, nn.LayerNorm) for part in model.modules())
    if kept.experts or kept.expert_neurons:
        return "a router shares out among all experts, silent or not"
    if kept.hidden is not None and centred:
        return "its norms take the mean of all channels, silent or not"
    if kept.layers is not None and {"output.LayerNorm", "output_layer_norm"} & set(family.inside):
        return "its layers take a norm of all that passes them, silent or not"
    if (kept.heads or kept.groups) and ("heads",) in family.inside.values():
        return "its norms of queries and keys look at all heads, silent or not"
    return ""
