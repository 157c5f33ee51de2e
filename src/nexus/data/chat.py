"""Rows → token ids, and which of them are targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32
from transformers import PreTrainedTokenizerBase

from nexus.batch import ANSWER
from nexus.data.control import ControlTokens
from nexus.data.cutting import Cut, Cutter, Ids, Parts
from nexus.data.faults import BadRow, Faults
from nexus.data.layouts import (
    DEEPEST,
    NOT_A_TARGET,
    Chat,
    Content,
    Text,
    Written,
    content,
    task_of,
)
from nexus.data.sources import Row
from nexus.data.template import ChatTemplate, Rendered, Span
from nexus.errors import UsageError
from nexus.tokenizers import real_vocabulary

SpecialTokens = Literal["escape", "parse"]

ROWS_AT_A_TIME = 512
CHARACTERS_AT_A_TIME = 2**20
"""Fewer rows if they are long: what is held at a time has a bound."""

MOST_CHARACTERS = 8 * 2**20
"""Of one row."""


@dataclass(frozen=True)
class Example:
    """One tokenised document. Nothing is shifted yet: `is_target[i]` says whether token i is to be
    predicted (the first token of a document never can be, whatever its flag)."""

    ids: Int32[np.ndarray, " n"]
    is_target: Bool[np.ndarray, " n"]
    parts: Int8[np.ndarray, " n"]
    task: str
    key: str
    """Stable: a hash of the token ids and the task."""
    place: str
    is_text: bool = False
    """A plain text, any piece of which is a document too."""
    truncated: bool = False
    escaped: bool = False
    """The text spelt special tokens, which were kept as text."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def target_count(self) -> int:
        return int(self.is_target[1:].sum())


def stable_key(ids: Int32[np.ndarray, " n"], task: str) -> str:
    """32 hexadecimal digits (128 bits) that name a document's tokens and task."""
    return hashlib.sha256(ids.astype("<i4").tobytes() + task.encode()).hexdigest()[:32]


class Encoder:
    """Tokenises rows of every known layout.

    - A plain text is all targets, EOS included.
    - A prompt with its completion is tokenised so that no token straddles the boundary; the
      completion and the EOS behind it are targets.
    - A conversation goes through the tokenizer's chat template; the assistant's words and its
      end-of-turn tokens are targets.

    BOS is added where and as the tokenizer itself does, never twice.

    Args:
        tokenizer: Any Hugging Face tokenizer; fast ones are several times faster here.
        special_tokens: `escape` keeps text that spells a special token as text, so that data cannot
            forge turns. `parse` turns it into the token: for data rendered beforehand.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, special_tokens: SpecialTokens = "escape"
    ) -> None:
        self._tokenizer = tokenizer
        self._escape = special_tokens == "escape"
        self._control = ControlTokens(tokenizer)
        self._cutter = Cutter(tokenizer, self._control, escape=self._escape)
        self._vocabulary = real_vocabulary(tokenizer)

    def examples(self, rows: Iterable[Row], task: str, faults: Faults) -> Iterator[Example]:
        """The rows' examples in order; rows that have none are added to `faults`.

        Raises:
            UsageError: if the tokenizer lacks a chat template or EOS and a row needs it, or its
                chat template is no program to run.
        """
        for portion in _portions(rows):
            for (row, _), example in zip(portion, self._encoded(portion, task), strict=True):
                if isinstance(example, BadRow):
                    faults.add(row.place, str(example), row.columns)
                else:
                    yield example

    def _encoded(self, portion: Sequence[_Said], task: str) -> Iterator[Example | BadRow]:
        texts = self._texts(portion)
        good = [
            (said, text)
            for (_, said), text in zip(portion, texts, strict=True)
            if not (isinstance(said, BadRow) or isinstance(text, BadRow))
        ]
        contents, rendered = [said for said, _ in good], [text for _, text in good]
        cuts = iter(self._cutter.cut(contents, rendered))
        for (row, said), text in zip(portion, texts, strict=True):
            if isinstance(said, BadRow):
                yield said
            elif isinstance(text, BadRow):
                yield text
            else:
                cut = next(cuts)
                yield cut if isinstance(cut, BadRow) else self._example(row, said, text, cut, task)

    def _texts(self, portion: Sequence[_Said]) -> list[Rendered | BadRow]:
        """Each row as text; conversations all together, which is what a template is asked."""
        chats = [(said, row.place) for row, said in portion if isinstance(said, Chat)]
        rendered: Iterator[Rendered | BadRow] = iter(())
        if chats:
            template = self._template(chats[0][1])
            rendered = iter(template.render([chat for chat, _ in chats], [at for _, at in chats]))
        texts: list[Rendered | BadRow] = []
        for _, said in portion:
            match said:
                case BadRow():
                    texts.append(said)
                case Chat():
                    texts.append(next(rendered))
                case Text(text):
                    texts.append(Rendered(text, ()))
                case Written():
                    texts.append(self._joined(said))
        return texts

    def _joined(self, written: Written) -> Rendered:
        text, spans, forged = "", [], []
        for piece in written.pieces:
            start = len(text)
            text += piece.text
            if piece.part != NOT_A_TARGET:
                spans.append(Span(start, len(text), piece.part))
            elif self._escape:
                markers = self._control.forged_markers(piece.text)
                forged += [(start + first, start + last) for first, last in markers]
        return Rendered(text, tuple(spans), tuple(forged))

    def _template(self, place: str) -> ChatTemplate:
        if not self._tokenizer.chat_template:
            raise UsageError(
                f"{place}: the row is a conversation, but the tokenizer "
                f"'{self._tokenizer.name_or_path}' has no chat template. Use the tokenizer of a "
                "chat model, add chat_template.jinja to the tokenizer's directory, or give the "
                "rows as 'prompt' and 'completion' strings."
            )
        return self._chat_template

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer, self._control, escape=self._escape)

    def _example(
        self, row: Row, said: Content, text: Rendered, cut: Cut, task: str
    ) -> Example | BadRow:
        ids, parts = cut if isinstance(said, Chat) else self._ended(cut, row.place)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._vocabulary:
            raise UsageError(
                f"{row.place}: the tokenizer '{self._tokenizer.name_or_path}' gives the ids "
                f"{ids.min()} to {ids.max()}, but its vocabulary ends with {self._vocabulary - 1}. "
                "Its files do not belong together: get them again."
            )
        task = task_of(row.columns) or task
        spelt = not isinstance(said, Chat) and self._control.special.search(text.text)
        example = Example(
            ids=ids,
            is_target=parts != NOT_A_TARGET,
            parts=np.maximum(parts, 0),
            task=task,
            key=stable_key(ids, task),
            place=row.place,
            is_text=isinstance(said, Text),
            escaped=self._escape and bool(text.forged or spelt),
        )
        if not example.target_count:
            return BadRow("no token of the row is a target: nothing can be learnt")
        return example

    def _ended(self, cut: Cut, place: str) -> Cut:
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise UsageError(
                f"{place}: the document ends with EOS, but the tokenizer "
                f"'{self._tokenizer.name_or_path}' has no eos_token. Set it in the tokenizer's "
                "configuration."
            )
        ids: Ids = cut.ids[:-1] if len(cut.ids) and cut.ids[-1] == eos else cut.ids
        parts: Parts = cut.parts[: len(ids)]
        return Cut(np.append(ids, np.int32(eos)), np.append(parts, np.int8(ANSWER)))


class _Said(NamedTuple):
    row: Row
    content: Content | BadRow


def _portions(rows: Iterable[Row]) -> Iterator[list[_Said]]:
    """The rows and what they say, as many at a time as there is room for."""
    portion: list[_Said] = []
    characters = 0
    for row in rows:
        said, size = _said(row)
        if portion and characters + size > CHARACTERS_AT_A_TIME:
            yield portion
            portion, characters = [], 0
        portion.append(_Said(row, said))
        characters += size
        if len(portion) == ROWS_AT_A_TIME:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def _said(row: Row) -> tuple[Content | BadRow, int]:
    """What a row says, and how many characters it takes."""
    size = _size(row.columns)
    if size > MOST_CHARACTERS:
        return BadRow(f"the row has over {MOST_CHARACTERS:,} characters: split the document"), size
    try:
        task_of(row.columns)
        return content(row.columns), size
    except BadRow as bad:
        return bad, size


def _size(value: Any, depth: int = 0) -> int:
    match value:
        case str() | bytes():
            return len(value)
        case dict() if depth <= DEEPEST:
            return sum(_size(item, depth + 1) for item in value.values())
        case list() | tuple() if depth <= DEEPEST:
            return sum(_size(item, depth + 1) for item in value)
    return 1
