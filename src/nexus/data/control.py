"""Control tokens: what steers a model, and what no text may therefore be able to spell."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from nexus.data.faults import BadRow

MARK = "\ufdd0"
"""A noncharacter, which Unicode keeps for internal use such as this."""

ROLES = frozenset(
    {"assistant", "context", "critic", "developer", "documents", "function", "human", "ipython"}
    | {"model", "observation", "system", "tool", "tool_response", "user"}
)
"""Names that templates may write between `<|` and `|>`, which makes a control token of them."""

_SHAPE = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)


class ControlTokens:
    """The control tokens of a tokenizer.

    Its special tokens, and of the other added tokens those that its chat template writes or that
    look like `<|this|>`. Runs of spaces, tags of HTML and whatever else tokenizers add to save room
    are ordinary text.

    Args:
        tokenizer: Any Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder
        written = str(tokenizer.chat_template or "")
        special = {id_: token.content for id_, token in added.items() if token.special}
        markers = {
            id_: token.content
            for id_, token in added.items()
            if not token.special
            and not token.content.isspace()
            and (token.content in written or _SHAPE.fullmatch(token.content))
        }
        unknown = tokenizer.unk_token_id
        self.special_ids = frozenset(id_ for id_ in special if id_ != unknown)
        self.ids = self.special_ids | markers.keys()
        self.special = any_of(special.values())
        """Matches the special tokens: nobody's text may be them."""
        self.markers = any_of(markers.values()) if markers else None
        """Matches the others, such as `<think>`: an assistant writes them, others may not."""
        self.all = any_of([*special.values(), *markers.values()])
        tokens = [token for token in (*special.values(), *markers.values()) if token]
        self._longest = max(map(len, tokens), default=0)
        self._starts = {token[:size] for token in tokens for size in range(1, len(token))}
        self._ends = {token[size:] for token in tokens for size in range(1, len(token))}
        self._firsts = {token[0] for token in tokens}
        self._lasts = {token[-1] for token in tokens}
        self._is_middle = lru_cache(maxsize=4096)(
            lambda text: text == text.strip() != "" and any(text in token for token in tokens)
        )

    def shielded_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """As `shielded`. What its assistant says may hold markers, which an assistant writes."""
        own = message["role"] == "assistant"
        return {
            name: self._marked(value, own=own, joined=name in ("role", "name", "content"))
            if isinstance(value, str)
            else self.shielded(value, own=own)
            for name, value in message.items()
        }

    def shielded(self, value: Any, *, own: bool = False) -> Any:
        """A value of a row with a `MARK` wherever it may have a part in spelling a control token.

        Within each token that it spells, and at its ends where these could make one together with
        what the template writes beside them. Keys of objects are text too.

        Args:
            value: Of JSON.
            own: It is what the assistant says.

        Raises:
            BadRow: if a string holds the mark itself.
        """
        match value:
            case str():
                return self._marked(value, own=own)
            case dict():
                return {
                    self._marked(name): self.shielded(item, own=own) for name, item in value.items()
                }
            case list() | tuple():
                return [self.shielded(item, own=own) for item in value]
        return value

    def _marked(self, text: str, *, own: bool = False, joined: bool = False) -> str:
        """`joined`: it may be the middle of a token whose both ends the template writes."""
        if MARK in text:
            raise BadRow("a message holds the noncharacter U+FDD0: remove it")
        marked = (self.special if own else self.all).sub(_broken, text)
        if joined and len(text) < self._longest and text not in ROLES and self._is_middle(text):
            return f"{MARK}{marked}{MARK}"
        before = MARK if self._ends_a_token(text) else ""
        after = MARK if self._starts_a_token(text) else ""
        return f"{before}{marked}{after}"

    def _starts_a_token(self, text: str) -> bool:
        tail = text[-self._longest :]
        return any(c in self._firsts and tail[i:] in self._starts for i, c in enumerate(tail))

    def _ends_a_token(self, text: str) -> bool:
        head = text[: self._longest]
        return any(c in self._lasts and head[: i + 1] in self._ends for i, c in enumerate(head))

    def forged(self, text: str, marks: Sequence[int]) -> list[tuple[int, int]]:
        """The ranges of those control tokens in a text that a row has a part in.

        Args:
            text: Rendered, without the marks.
            marks: Where they stood, ascending.
        """
        found = []
        for match in self.all.finditer(text):
            start, stop = match.span()
            within = marks[bisect_right(marks, start) : bisect_left(marks, stop)]
            alone = stop - start == 1 and start in marks and stop in marks
            if within or alone:
                found.append((start, stop))
        return found

    def forged_markers(self, text: str) -> list[tuple[int, int]]:
        """The ranges of the markers in somebody else's text."""
        return [match.span() for match in self.markers.finditer(text)] if self.markers else []


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first; nothing when there is none."""
    listed = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, listed)) or "(?!)")


def _broken(token: re.Match[str]) -> str:
    first, rest = token[0][0], token[0][1:]
    return f"{first}{MARK}{rest}" if rest else f"{MARK}{first}{MARK}"
