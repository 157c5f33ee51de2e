"""Whether models that a user brings fit together: checked once, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated, without_adapters
from nexus.kernels.lm_head import Trunk, head_rows
from nexus.tokenizers import shared_vocabulary
from nexus.window import context_limit


@torch.no_grad()
def refuse_what_looks_ahead(trunk: Trunk) -> None:
    """Refuse a model that is not causal: in a causal one no token changes anything before it.

    Raises:
        UsageError: it is an encoder-decoder model, or reads in both directions.
    """
    tokens = torch.arange(8) % trunk.vocabulary
    rows = torch.stack([tokens, tokens])
    rows[1, -1] = (tokens[-1] + 1) % trunk.vocabulary
    model = without_adapters(trunk.model)
    looks_ahead = bool(model.config.is_encoder_decoder)
    if not looks_ahead:
        with evaluated(trunk.model):
            one, other = trunk.hidden(from_padded(rows.to(model.device)))
        *before, last = (one - other).float().norm(dim=-1).tolist()
        looks_ahead = max(before) > (1e-4 if one.dtype.itemsize >= 4 else 0.02) * last
    if looks_ahead:
        raise UsageError(
            f"{type(model).__name__} is no causal language model: what it says of a token depends "
            "on later ones. Give models for causal language modelling (AutoModelForCausalLM)"
        )


def refuse_self(teachers: Sequence[nn.Module], student: nn.Module) -> None:
    """Refuse a student that is one of its teachers, or shares weights with one.

    Raises:
        UsageError: it does.
    """
    own = {parameter.data_ptr() for parameter in student.parameters() if parameter.numel()}
    for teacher in teachers:
        if any(parameter.data_ptr() in own for parameter in teacher.parameters()):
            raise UsageError(
                "the teacher shares weights with the student: a model is at distance zero from "
                "itself and learns nothing. Give a frozen copy (copy.deepcopy) as the teacher"
            )


def common_vocabulary(
    teachers: Sequence[nn.Module], student: nn.Module, tokenizer: PreTrainedTokenizerBase | None
) -> int:
    rows = [head_rows(model) for model in (*teachers, student)]
    if tokenizer is not None:
        return min(shared_vocabulary(tokenizer, size, rows[-1])[0] for size in rows[:-1])
    if len(set(rows)) > 1:
        raise UsageError(
            f"the models' heads have {', '.join(map(str, rows))} rows (the student's last). If "
            "they share a tokenizer and only padding differs, pass tokenizer=; if not, output "
            "distillation does not apply"
        )
    return rows[0]


def refuse_too_long(model: nn.Module, length: int) -> None:
    """Refuse rows that are longer than the model's context.

    Raises:
        UsageError: they are.
    """
    whole = without_adapters(model)
    limit = context_limit(whole.config)
    if limit and length > limit:
        raise UsageError(
            f"input_ids has rows of {length} tokens, but {type(whole).__name__} takes at most "
            f"{limit}: cut or split them"
        )
