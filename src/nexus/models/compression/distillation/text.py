"""Text that a user passes from Python, to look at what passes through a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.pruning.text import SEQUENCE, require_sequence
from nexus.spec import shown
from nexus.window import context_limit

Texts = Sequence[str] | Sequence[Tensor] | Sequence[Mapping[str, Any]]
"""Texts; or token ids without padding; or mappings of `input_ids` and, where some of them are
padding, `attention_mask`."""

ROWS = 4


def rows_of_text(
    data: Texts,
    tokenizer: PreTrainedTokenizerBase | None,
    model: PreTrainedModel,
    *,
    without: str,
) -> list[Batch]:
    """Rows of whole sequences, the texts one behind the other; what is left over is dropped.

    Args:
        data: texts, which need the tokenizer, or token ids.
        tokenizer: the model's.
        model: which is to read them.
        without: what happens where no data is given, for who has too little.

    Raises:
        UsageError: They are neither, or less than one sequence.
    """
    if isinstance(data, str | bytes | Mapping) or not hasattr(data, "__iter__"):
        raise UsageError(
            f"calibration_data is {shown(data)}: give several texts or tensors of token ids, as a "
            "list"
        )
    length = min(SEQUENCE, context_limit(model.config) or SEQUENCE)
    ids = [_ids(one, tokenizer, f"calibration_data[{at}]") for at, one in enumerate(data)]
    stream = torch.cat(ids) if ids else torch.empty(0, dtype=torch.long)
    require_sequence(len(stream), length, "calibration_data", f", or none, and {without}")
    rows = stream[: len(stream) // length * length].view(-1, length)
    vocabulary = model.config.get_text_config().vocab_size
    return [from_padded(some, vocabulary=vocabulary) for some in torch.split(rows, ROWS)]


def real_ids(one: Tensor | Mapping[str, Any]) -> Tensor:
    """Token ids in their order, without what a mask says is padding."""
    if not isinstance(one, Mapping):
        return torch.as_tensor(one).flatten()
    ids = torch.as_tensor(one["input_ids"])
    mask = one.get("attention_mask")
    return ids.flatten() if mask is None else ids[torch.as_tensor(mask).bool()]


def require_floating(dtype: Any) -> None:
    """Refuse what is no type of weights.

    Raises:
        UsageError: It is a name, say, or a type of whole numbers.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UsageError(
            f"dtype is {dtype!r}: pass torch.bfloat16, torch.float16 or torch.float32 itself"
        )


def _ids(one: Any, tokenizer: PreTrainedTokenizerBase | None, where: str) -> Tensor:
    if isinstance(one, str):
        if tokenizer is None:
            raise UsageError("calibration_data holds texts: pass tokenizer= as well, or token ids")
        return torch.tensor(cast(Any, tokenizer)(one)["input_ids"], dtype=torch.long)
    try:
        tokens = real_ids(one).cpu()
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UsageError(
            f"{where} is {shown(one)}, which holds no token ids ({error}): give texts, tensors of "
            "token ids, or mappings of input_ids and attention_mask"
        ) from None
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise UsageError(f"{where} is a tensor of {tokens.dtype}: give token ids or texts")
    return tokens.long()
