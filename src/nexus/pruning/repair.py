"""Closed-form repair: what is kept of a projection learns to stand in for what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.memory import give_back
from nexus.pruning.activations import (
    by_row,
    hooked,
    inverse_size,
    neurons_projection,
    part,
    reader,
    states,
)
from nexus.pruning.families import Family, family_of, layers_of
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept, entries
from nexus.voice import Say

MEMORY_SHARE = 0.15
"""Of the model's bytes: what the sums of the layers that are refitted in one pass may take."""


class _Enough(Exception):
    """All that this pass is for has been seen."""


@torch.no_grad()
def repair(
    small: PreTrainedModel,
    model: PreTrainedModel,
    kept: Kept,
    batches: Iterable[Batch],
    *,
    ridge: float = 1e-3,
    say: Say = lambda text: None,
) -> None:
    """Refit the projections of `small`, which was cut out of `model`, in place.

    Of every layer that lost neurons, the down-projection W' minimises, in closed form,

        Σ_t w_t |x_t W - x_t[kept] W'|² + λ |W' - W[kept]|²,   w_t = 1 / mean(h_t²)

    over all real tokens t of the calibration text; x are the neurons and h the residual stream
    that the layer gives, both in `model`. The next norm divides by the size of h; without w_t the
    few tokens with massive activations decide alone. Likewise the output projection of layers
    that lost heads. λ is `ridge` times the mean of the kept neurons' squares: the calibration loss
    never rises. Biases stay, and so do the experts of a mixture.

    A few layers are refitted at a time, each with a forward pass as far as they need it.

    Args:
        small: the model that was cut.
        model: which it was cut out of.
        kept: what was kept.
        batches: calibration text.
        ridge: how closely what is kept stays as it was.
        say: told how far it is.

    Raises:
        UsageError: There is no token to refit on.
    """
    family = family_of(model)
    fits = list(_fits(small, model, family, kept))
    batches = list(batches)
    limit = MEMORY_SHARE * sum(each.numel() * each.element_size() for each in model.parameters())
    done = 0
    for group in _groups(fits, limit):
        say(f"refitting what is left: {done} of {len(fits)} projections done")
        done += len(group)
        _observe(model, family, group, batches)
        for fit in group:
            fit.solve(ridge)
        give_back()


@dataclass
class _Fit:
    """A projection of the small model, and the sums that its new weights follow from."""

    layer: int
    """Its number in the model that was cut."""
    old: nn.Module
    new: nn.Module
    weight: Float[Tensor, "all_outputs inputs"]
    """The old weights."""
    outputs: Int[Tensor, " outputs"]
    """Which outputs are kept."""
    transposed: bool
    kept: Int[Tensor, " kept"]
    gone: Int[Tensor, " gone"]
    gram: Tensor | None = None
    """Σ w x[kept] x[kept]ᵀ."""
    missed: Tensor | None = None
    """Σ w x[kept] (x[gone] W[gone])ᵀ: what is missing now, seen from what is there."""
    tokens: int = 0
    pending: list[Tensor] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return 4 * len(self.kept) * (len(self.kept) + len(self.outputs))

    def add(self, weights: Float[Tensor, "rows length"]) -> None:
        """Count in what entered the projection, a row at a time."""
        entered = by_row(self.pending.pop(), weights)
        lost = self.weight[self.outputs][:, self.gone].float()
        if self.gram is None or self.missed is None:
            self.gram = lost.new_zeros(len(self.kept), len(self.kept))
            self.missed = lost.new_zeros(len(self.kept), len(self.outputs))
        for row, weight in zip(entered, weights, strict=True):
            real = weight > 0
            value = row[real].float() * weight[real].unsqueeze(1)
            here = value[:, self.kept]
            self.gram.addmm_(here.T, here)
            self.missed.addmm_(here.T, value[:, self.gone] @ lost.T)
            self.tokens += len(value)

    def solve(self, ridge: float) -> None:
        """Add (G + λ)⁻¹ · missed to the weights: zero if nothing is missing."""
        if self.gram is None or self.missed is None or not self.tokens:
            raise UsageError(
                "Repair refits what is left on calibration text, but there is none. Add text, or "
                "prune without repair"
            )
        gram, missed = self.gram.double(), self.missed.double()
        self.gram = self.missed = None
        strength = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        gram.diagonal().add_(ridge * strength)
        change = torch.linalg.solve(gram, missed)
        weight: Any = self.new.weight
        weight.add_((change if self.transposed else change.T).to(weight.dtype))


def _fits(
    small: PreTrainedModel, model: PreTrainedModel, family: Family, kept: Kept
) -> Iterator[_Fit]:
    sizes = Sizes.of(model.config, family)
    _, layers = layers_of(model, family)
    _, new_layers = layers_of(small, family)
    numbers = range(len(layers)) if kept.layers is None else kept.layers
    for new, number in enumerate(numbers):
        for place, index, width in (
            (family.heads, entries(kept.heads.get(number), sizes.head_dim), sizes.length("heads")),
            (neurons_projection(family), kept.neurons.get(number), sizes.neurons),
        ):
            old = part(layers[number], place) if place else None
            refitted = part(new_layers[new], place) if place else None
            if index is None or old is None or refitted is None or len(index) == width:
                continue
            weight: Any = old.weight
            weight = weight.T if family.transposed else weight
            outputs = torch.arange(len(weight)) if kept.hidden is None else kept.hidden
            index = index.to(weight.device)
            there = torch.zeros(width, dtype=torch.bool, device=weight.device)
            there[index] = True
            gone = torch.nonzero(~there).flatten()
            outputs = outputs.to(weight.device)
            yield _Fit(number, old, refitted, weight, outputs, family.transposed, index, gone)


def _groups(fits: list[_Fit], limit: float) -> Iterator[list[_Fit]]:
    """Runs of projections whose sums fit into so many bytes, or single ones."""
    group: list[_Fit] = []
    for fit in fits:
        if group and sum(each.bytes for each in [*group, fit]) > limit:
            yield group
            group = []
        group.append(fit)
    if group:
        yield group


def _observe(
    model: PreTrainedModel, family: Family, group: list[_Fit], batches: list[Batch]
) -> None:
    """One pass over the text, as far as the last layer of the group."""
    _, layers = layers_of(model, family)
    last = max(fit.layer for fit in group)
    inside = torch.zeros(0, 0, dtype=torch.bool)

    def leave(number: int, output: Any) -> None:
        weights = inverse_size(by_row(states(output), inside)) * inside
        for fit in group:
            if fit.layer == number:
                fit.add(weights)
        if number == last:
            raise _Enough

    handles = [
        fit.old.register_forward_pre_hook(lambda _, args, fit=fit: fit.pending.append(args[0]))
        for fit in group
    ] + [
        layers[number].register_forward_hook(
            lambda _, __, output, number=number: leave(number, output)
        )
        for number in sorted({fit.layer for fit in group})
    ]
    read = reader(model)
    with hooked(handles), evaluated(model):
        for batch in batches:
            inside = (batch.documents != PADDING).to(model.device)
            try:
                read(batch)
            except _Enough:
                continue
