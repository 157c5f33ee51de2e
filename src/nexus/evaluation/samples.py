"""The same prompts continued by teacher and student: what the numbers look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nexus.evaluation.mode import observing
from nexus.results import Sample


def continuations(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int = 48,
) -> tuple[Sample, ...]:
    """Greedy continuations of prompts that are token ids, so that nothing is tokenised anew."""
    with observing(teacher, student):
        return tuple(
            Sample(
                prompt=str(tokenizer.decode(list(prompt))),
                teacher=_continue(teacher, tokenizer, prompt, new_tokens),
                student=_continue(student, tokenizer, prompt, new_tokens),
            )
            for prompt in prompts
        )


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    new_tokens: int,
) -> str:
    ids = torch.tensor([list(prompt)], device=model.device)
    # A model's own settings may sample or penalise repetition; both must write by one rule.
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    written = cast(Any, model).generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=settings
    )
    ids_written = cast(Tensor, written)[0, ids.shape[1] :]
    return str(tokenizer.decode(ids_written, skip_special_tokens=True))
