"""A model's forward pass without its head, and the places in it that a cut looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.lm_head import head_rows, split_head
from nexus.pruning.families import Family

LEAST_SIZE = 1e-6
"""Of a residual stream, where it is divided by: some embeddings, as that of padding, are zero."""


def reader(model: PreTrainedModel) -> Callable[[Batch], None]:
    """What puts a batch through the model, its head left out.

    A model that writes text sees the documents of a row apart; any other (an encoder) takes one
    document a row, with its padding masked.

    Raises:
        UsageError: A row holds several documents that cannot be kept apart.
    """
    if model.can_generate():
        trunk = split_head(model, head_rows(model))
        return lambda batch: _drop(trunk.hidden(batch.to(model.device)))
    body = model.base_model

    def read(batch: Batch) -> None:
        inside = batch.documents != PADDING
        if bool((batch.documents.masked_fill(~inside, 0) > 0).any()):
            raise UsageError(
                f"A row holds several documents, which {type(model).__name__} cannot keep apart. "
                "Set data.packing: false"
            )
        mask = inside.long().to(model.device)
        body(input_ids=batch.input_ids.to(model.device), attention_mask=mask)

    return read


def _drop(_: Tensor) -> None:
    return None


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are gone afterwards."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def part(layer: nn.Module, name: str) -> nn.Module | None:
    """A module of a layer, by its name; nothing if this layer has none of the kind."""
    return dict(layer.named_modules()).get(name)


def neurons_projection(family: Family) -> str:
    """The module whose input are the neurons of a layer that is no mixture; empty if none is."""
    down = ("neurons", "hidden") if family.transposed else ("hidden", "neurons")
    return next((name for name, axes in family.inside.items() if axes == down), "")


def norms(model: PreTrainedModel, family: Family) -> dict[str, nn.Module]:
    """The norms over the residual stream whose weights a cut rescales, by their names."""
    return {
        name: module
        for name, module in model.named_modules()
        if any(name == end or name.endswith(f".{end}") for end in family.rescaled)
    }


def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a layer is given."""
    given: Tensor = args[0] if args else kwargs["hidden_states"]
    return given


def states(output: Any) -> Tensor:
    """What a layer gives, which some wrap in a tuple."""
    given: Tensor = output[0] if isinstance(output, tuple) else output
    return given


def by_row(value: Tensor, like: Shaped[Tensor, "rows length"]) -> Float[Tensor, "rows length n"]:
    """Some architectures flatten rows in the middle of a layer; here they are apart again."""
    return value.reshape(*like.shape, value.shape[-1])


def inverse_size(
    stream: Float[Tensor, "rows length hidden"],
) -> Float[Tensor, "rows length"]:
    """1 / root mean square of the residual stream: how much an addition to a token counts.

    The next norm divides by that size. Without it the few tokens with massive activations
    (arXiv:2402.17762) decide alone. A norm's epsilon is larger than the square of `LEAST_SIZE`.
    """
    width = stream.shape[-1]
    norm = torch.linalg.vector_norm(stream, dim=-1, dtype=torch.float32)
    size: Tensor = (norm / width**0.5).clamp_min(LEAST_SIZE)
    return size.reciprocal()
