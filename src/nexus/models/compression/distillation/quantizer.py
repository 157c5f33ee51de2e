"""quantize(model, bits=4): the same model in few bits."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.adapters import merged
from nexus.calibration import TOKENS, calibrated
from nexus.errors import UsageError
from nexus.models.compression.distillation.text import Texts, require_floating, rows_of_text
from nexus.quantization.scheme import scheme_of
from nexus.students.cutting import apart


def quantize(
    model: nn.Module,
    bits: int | None = None,
    *,
    scheme: str | None = None,
    group_size: int | Literal["row"] | None = None,
    symmetric: bool = True,
    dtype: torch.dtype | None = None,
    calibration_data: Texts | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """The model with the weights of its linear layers in few bits; embeddings and head stay.

    What comes back runs, generates, and is saved with `save_pretrained`; load it again with
    `nexus.hub.load_model`, or with plain `from_pretrained` where compressed-tensors is installed.
    Layers that could not be quantised are named in a warning.

    Args:
        model: is left as it is. Adapters are merged into a copy first.
        bits: 8, 4 or 3; of weights only.
        scheme: or by its name: int8, int4, int3 or int8_dynamic (both weights and what enters).
        group_size: neighbours along a row that share a scale, or "row". If not given, 64 below
            eight bits and the row at eight.
        symmetric: whether grids lie around zero.
        dtype: of all that is not quantised; the model's if not given. Decoding is fastest in
            bfloat16.
        calibration_data: texts, which need a tokenizer, or tensors of token ids; padded ones in
            mappings of `input_ids` and `attention_mask`. The first 8,000 tokens say how strong each
            input of a layer is, and the error below eight bits is smaller for it; without, every
            input counts alike.
        tokenizer: the model's.

    Raises:
        UsageError: There is no such scheme, nothing can be quantised like this, it is already, or
            the data cannot be used.
    """
    wanted = scheme_of(bits, scheme, group_size, symmetric)
    require_floating(dtype)
    plain = merged(model)
    if not isinstance(plain, PreTrainedModel):
        raise UsageError(f"{type(model).__name__} is no transformers model: pass a PreTrainedModel")
    text = None
    if calibration_data is not None:
        without = "every input of a layer counts alike"
        text = rows_of_text(calibration_data, tokenizer, plain, without=without)
        text = [batch.to(plain.device) for batch in apart(text, TOKENS)[0]]
    found = calibrated(plain, wanted, text, dtype)
    if found.left_out:
        names = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        warnings.warn(f"not quantised: {names}", stacklevel=2)
    return found.model
