"""Calibration text that a model writes itself, where there is no other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.window import context_limit

TOKENS = 8_000
LENGTH = 256
ROWS = 16


@torch.no_grad()
def own_text(
    model: PreTrainedModel, tokens: int = TOKENS, length: int = LENGTH, seed: int = 0
) -> list[Batch]:
    """Documents as the model writes them after its beginning-of-sequence token, unbiased.

    Args:
        model: a causal language model.
        tokens: about how many are written in all.
        length: of a document at most; less where the model takes fewer positions.
        seed: the text is the same for the same seed and machine.

    Raises:
        UsageError: The model writes no text, or has no token to begin with.
    """
    if not model.can_generate():
        raise UsageError(
            f"{type(model).__name__} cannot write its own calibration text: give some "
            "(--text, or calibration_data= in Python)"
        )
    ends = _ids(model, "eos_token_id")
    begin = [*_ids(model, "bos_token_id"), *ends][:1]
    if not begin:
        raise UsageError(
            "the teacher has neither a beginning- nor an end-of-sequence token to write its own "
            "calibration text from: give some (--text, or calibration_data= in Python)"
        )
    length = min(length, context_limit(model.config) or length)
    batches: list[Batch] = []
    written = 0
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), evaluated(model):
        torch.manual_seed(seed)
        # Documents end where the model ends them: four times as many rows as would do at best.
        for _ in range(4 * -(-tokens // (ROWS * length))):
            ids = _written(model, begin[0], length)
            real = _before_end(ids, ends)
            batches.append(from_padded(ids.masked_fill(~real, 0), None, real.long()))
            written += int(real.sum())
            if written >= tokens:
                break
    return batches


def _written(model: Any, begin: int, length: int) -> Tensor:
    prompt = torch.full((ROWS, 1), begin, device=model.device)
    ids: Tensor = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_length=length,
        max_new_tokens=None,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=begin,
    )
    return ids


def _before_end(ids: Tensor, ends: list[int]) -> Tensor:
    """Which tokens are text: all up to the first end, that included."""
    is_end = torch.isin(ids[:, 1:], torch.tensor(ends, dtype=ids.dtype, device=ids.device))
    ended = torch.cat([torch.zeros_like(is_end[:, :1]), is_end], dim=1).cumsum(1)
    after = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)
    return after == 0


def _ids(model: Any, name: str) -> list[int]:
    """Special ids, as generation and configuration know them, in vocabulary."""
    text = model.config.get_text_config()
    for config in (model.generation_config, text):
        value = getattr(config, name, None)
        values = value if isinstance(value, list) else [value]
        known = [int(one) for one in values if one is not None and 0 <= one < text.vocab_size]
        if known:
            return known
    return []
