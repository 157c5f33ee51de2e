"""Greedy writing: every model by one rule, whatever its own settings are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    end_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> list[str]:
    """What a model writes after each prompt, the likeliest token each time.

    The prompts are one batch, padded on the left; in full precision each is continued as it would
    be alone. The model should be in eval mode.

    Args:
        prompts: Token ids, at least one in each.
        new_tokens: At most so many are written.
        end_ids: Tokens that end a text, and are no part of it.
        stop: Strings before which a text ends.
    """
    longest = max(len(prompt) for prompt in prompts)
    pad = end_ids[0] if end_ids else 0
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=list(end_ids) or None,
        pad_token_id=pad,
        use_cache=True,
    )
    criteria = [_Stopped(tokenizer, stop, longest)] if stop else []
    with plain_settings(model):
        written = cast(Any, model).generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList(criteria),
        )
    texts = []
    for row in cast(Tensor, written)[:, longest:].tolist():
        end = next((at for at, id_ in enumerate(row) if id_ in end_ids), len(row))
        text = str(tokenizer.decode(row[:end], skip_special_tokens=True))
        texts.append(_before(text, stop))
    return texts


@contextmanager
def plain_settings(model: PreTrainedModel) -> Iterator[None]:
    """Whatever a call leaves open, transformers takes from the model's own settings.

    Those may penalise repetition or forbid tokens, which would make two models write by two rules.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


class _Stopped(StoppingCriteria):
    """Ends each row of a batch once one of the strings stands in what it wrote."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_tokens = prompt_tokens
        # A token is a byte or more; some before the string, for the one it begins in.
        self._tail = max(len(one.encode()) for one in stop) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        start = max(self._prompt_tokens, input_ids.shape[1] - self._tail)
        tails = self._tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        done = [any(one in tail for one in self._stop) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _before(text: str, stop: Sequence[str]) -> str:
    found = [at for one in stop if (at := text.find(one)) >= 0]
    return text[: min(found)] if found else text
