"""A model in few bits that fit some text: how strong each input of its layers is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.pruning.activations import by_row, hooked, reader
from nexus.quantization.quantize import Quantized, plan, quantize
from nexus.quantization.scheme import Scheme

TOKENS = 8_000
"""How much text is looked at for what enters the layers: more changes little."""


def calibrated(
    model: PreTrainedModel,
    scheme: Scheme,
    batches: Iterable[Batch] | None,
    dtype: torch.dtype | None = None,
) -> Quantized:
    """The model in few bits, its grids fitted to what enters the layers on some text.

    Args:
        model: is left as it is.
        scheme: into how many bits.
        batches: the text; without any, grids reach to their groups' ends.
        dtype: of all that is not quantised.
    """
    importance = None
    if batches is not None and scheme.bits < 8:  # of 256 values none is missed
        importance = mean_squares(model, plan(model, scheme)[0], batches)
    return quantize(model, scheme, importance=importance, dtype=dtype)


@torch.no_grad()
def mean_squares(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Float[Tensor, " in"]]:
    """Of what enters each layer, the mean square of every input over all real tokens.

    Layers that something else than tokens enters, as of a pooler or a classifier, have none.

    Args:
        model: runs once over the text, without its head.
        layers: modules of the model by name.
        batches: the text.

    Raises:
        UsageError: There is no token, or a layer never ran.
    """
    sums: dict[str, Tensor] = {}
    inside = torch.zeros(0, 0, dtype=torch.bool)
    tokens = 0
    others: set[str] = set()

    def adding(name: str) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].shape[:-1].numel() != inside.numel():
                others.add(name)  # a pooler's: one a row
                return
            entering = by_row(args[0], inside)[inside].float()
            sums[name] = sums.get(name, 0) + entering.square().sum(0)

        return add

    read = reader(model)
    body, whole = (set(map(id, one.modules())) for one in (model.base_model, model))
    others |= {name for name, layer in layers.items() if id(layer) in whole - body}  # not read
    handles = [layer.register_forward_pre_hook(adding(name)) for name, layer in layers.items()]
    with hooked(handles), evaluated(model):
        for batch in batches:
            inside = (batch.documents != PADDING).to(model.device)
            tokens += int(inside.sum())
            read(batch)
    if not tokens:
        raise UsageError("there is no text to calibrate on: give some")
    if silent := [name for name in layers if name not in sums and name not in others]:
        raise UsageError(
            f"calibration text never reached layer '{silent[0]}' of {type(model).__name__}: "
            "quantise without it"
        )
    return {name: total / tokens for name, total in sums.items()}
