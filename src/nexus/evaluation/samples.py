"""The same prompts continued by teacher and student: what the numbers look like."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.evaluation.greedy import write
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
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    (text,) = write(model, tokenizer, [prompt], new_tokens=new_tokens, end_ids=ends)
    return text
