"""Contexts and continuations as token ids, cut where lm-evaluation-harness cuts them."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.errors import UsageError

_WINDOW = ("n_positions", "max_position_embeddings", "n_ctx")
_UNKNOWN_WINDOW = 2048
"""What lm-evaluation-harness takes where neither model nor tokenizer says."""

_ENDLESS = 10**9
"""Tokenizers that know of no window name a number beyond all sense."""


class Request(NamedTuple):
    """How likely is `continuation` after `context`?"""

    context: str
    continuation: str


class Encoded(NamedTuple):
    """A request as the model reads it: `tokens`, of which the last `scored` are asked about."""

    tokens: tuple[int, ...]
    scored: int


class Encoder:
    """Turns requests into token ids.

    Context and continuation are encoded together, and what comes after as many ids as the context
    alone has is the continuation; spaces at the end of the context belong to it. A token that
    begins the text is there if the tokenizer puts one in front by itself, and where there is no
    context at all. What exceeds the model's window is cut from the left.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._window = window(model, tokenizer)
        bos = tokenizer.bos_token_id
        self._first = bos if bos is not None else tokenizer.eos_token_id
        self._first_text = "" if self._first is None else str(tokenizer.decode([int(self._first)]))

    def __call__(self, request: Request) -> Encoded:
        """Encode one request.

        Raises:
            UsageError: the continuation has no token, or does not fit into the model's window.
        """
        kept = request.context.rstrip()
        continuation = request.context[len(kept) :] + request.continuation
        if kept:
            whole, before = self._ids(kept + continuation), self._ids(kept)
            after = whole[len(before) :]
        else:
            before, after = self._beginning(), self._ids(continuation, special=False)
            if after[:1] == before:
                after = after[1:]
        if not 0 < len(after) <= self._window:
            raise UsageError(
                f"The continuation {continuation[:60]!r} has {len(after)} tokens, and the model's "
                f"window takes 1 to {self._window}. Leave the item out."
            )
        return Encoded(tuple((before + after)[-(self._window + 1) :]), len(after))

    def _beginning(self) -> list[int]:
        if self._first is None:
            raise UsageError(
                "The tokenizer has no token that begins or ends a text, which is needed where "
                "there is no context. Set its bos_token, or write a prompt in front."
            )
        return [int(self._first)]

    def _ids(self, text: str, special: bool | None = None) -> list[int]:
        if special is None:
            begun = bool(self._first_text) and text.startswith(self._first_text)
            special = not begun
        return list(self._tokenizer.encode(text, add_special_tokens=special))


def window(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model reads at once, as far as anything says."""
    config = model.config.get_text_config()
    for name in _WINDOW:
        if size := getattr(config, name, None):
            return int(size)
    size = tokenizer.model_max_length
    return int(size) if size and size < _ENDLESS else _UNKNOWN_WINDOW
