"""Norms over a narrower stream: their weights make up for the channels that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.pruning.activations import by_row, first, hooked, norms, reader
from nexus.pruning.families import family_of, layers_of
from nexus.pruning.slice import Kept, came_from

Norms = Literal["rescaled", "measured"]
"""What becomes of the weights of norms where channels of the residual stream go:

    rescaled  times sqrt(all / kept), which is right if the channels that go are zero
    measured  times what makes up for them on calibration text
"""


@torch.no_grad()
def norm_factors(
    model: PreTrainedModel, hidden: Int[Tensor, " kept"], batches: Iterable[Batch]
) -> dict[str, float]:
    """By the norm's name, what its weights are multiplied with to say of `hidden` what it said.

    A norm divides by the root mean square over all channels, and after the cut by that over those
    that are kept. The factor is the mean over real tokens of the second by the first: with all
    tokens of about one length after the norm, that is least squares. LayerNorm's means are taken
    out first. Sums are streamed in float64. Norms that the text never enters are left out.

    Args:
        model: before the cut.
        hidden: the channels that are kept.
        batches: calibration text.

    Raises:
        UsageError: There is no token.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    inside = torch.zeros(0, 0, dtype=torch.bool)
    index = hidden.to(model.device)

    def add(name: str, centred: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = by_row(first(args, kwargs), inside)[inside].float()
        whole, kept = (_size(one, centred) for one in (stream, stream[:, index]))
        ratios, none = kept / whole, torch.zeros((), device=whole.device)
        real = whole > 0
        sums[name] = sums.get(name, none) + ratios.where(real, none.double()).sum()
        counts[name] = counts.get(name, none) + real.sum()

    handles = [
        norm.register_forward_pre_hook(
            lambda norm, args, kwargs, name=name: add(
                name, isinstance(norm, nn.LayerNorm), args, kwargs
            ),
            with_kwargs=True,
        )
        for name, norm in norms(model, family_of(model)).items()
    ]
    read = reader(model)
    with hooked(handles), evaluated(model):
        for batch in batches:
            inside = (batch.documents != PADDING).to(model.device)
            read(batch)
    if not any(bool(count) for count in counts.values()):
        raise UsageError(
            "norms: measured looks at calibration text, but there is none. Add text, or choose "
            "norms: rescaled"
        )
    return {name: float(total / counts[name]) for name, total in sums.items() if counts[name]}


@torch.no_grad()
def fit_norms(
    small: PreTrainedModel, model: PreTrainedModel, kept: Kept, batches: Iterable[Batch]
) -> None:
    """Multiply the norms of `small`, which was cut out of `model`, by measured factors, in place.

    Nothing changes where no channel went. Norms that the text never enters, as those of a head that
    is not read, stay as they were rescaled.
    """
    if kept.hidden is None or len(kept.hidden) == model.config.get_text_config().hidden_size:
        return
    family = family_of(model)
    factors = norm_factors(model, kept.hidden, batches)
    prefix, layers = layers_of(model, family)
    numbers = kept.layers or tuple(range(len(layers)))
    whole, offset = norms(model, family), float(family.unit_offset)
    for name, norm in norms(small, family).items():
        source, _ = came_from(name, prefix, numbers)
        if source in factors:
            before: Any = whole[source].weight
            after: Any = norm.weight
            value = before[kept.hidden.to(before.device)].float() + offset
            after.copy_(value * factors[source] - offset)


def _size(stream: Tensor, centred: bool) -> Tensor:
    """Of every token the root mean square, in float64."""
    wide = stream.double()
    return wide.std(-1, correction=0) if centred else wide.square().mean(-1).sqrt()
