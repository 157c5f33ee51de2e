"""Text that a user passes from Python, to look at what passes through a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.pruning.text import SEQUENCE, require_sequence
from nexus.window import context_limit

ROWS = 4


def rows_of_text(
    data: Sequence[str] | Sequence[Tensor],
    tokenizer: PreTrainedTokenizerBase | None,
    model: PreTrainedModel,
    *,
    without: str,
) -> list[Batch]:
    """Rows of whole sequences, the texts one behind the other; what is left over is dropped.

    Args:
        data: texts, which need the tokenizer, or tensors of token ids.
        tokenizer: the model's.
        model: which is to read them.
        without: what happens where no data is given, for who has too little.

    Raises:
        UsageError: They are neither, or less than one sequence.
    """
    length = min(SEQUENCE, context_limit(model.config) or SEQUENCE)
    ids: list[Tensor] = []
    for number, one in enumerate(data):
        if isinstance(one, str) and tokenizer is None:
            raise UsageError("calibration_data holds texts: pass tokenizer= as well, or token ids")
        found: Any = cast(Any, tokenizer)(one)["input_ids"] if isinstance(one, str) else one
        tokens = torch.as_tensor(found).flatten().cpu()
        if tokens.is_floating_point():
            raise UsageError(
                f"calibration_data[{number}] is a tensor of {tokens.dtype}: give token ids or texts"
            )
        ids.append(tokens.long())
    stream = torch.cat(ids) if ids else torch.empty(0, dtype=torch.long)
    require_sequence(len(stream), length, "calibration_data", f", or none, and {without}")
    rows = stream[: len(stream) // length * length].view(-1, length)
    vocabulary = model.config.get_text_config().vocab_size
    return [from_padded(some, vocabulary=vocabulary) for some in torch.split(rows, ROWS)]
