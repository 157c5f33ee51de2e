"""Rows → token ids, and which of them are targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32
from transformers import PreTrainedTokenizerBase

from nexus.batch import ANSWER
from nexus.data.faults import BadRow, Faults
from nexus.data.layouts import NOT_A_TARGET, Chat, Content, Text, Written, content
from nexus.data.sources import Row
from nexus.data.template import ChatTemplate, Rendered, Span, any_of
from nexus.errors import UsageError

SpecialTokens = Literal["escape", "parse"]

ROWS_AT_A_TIME = 512


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
        added = tokenizer.added_tokens_decoder
        self._control_ids = {id_ for id_, token in added.items() if token.special}
        self._special = any_of(token.content for token in added.values() if token.special)
        probe = self._ids(["a"])[0]
        self._adds_bos = bool(probe) and probe[0] == tokenizer.bos_token_id
        self._adds_eos = bool(probe) and probe[-1] == tokenizer.eos_token_id
        self._newline = self._ids(["\n"], begins=False)[0]

    def examples(self, rows: Iterable[Row], task: str, faults: Faults) -> Iterator[Example]:
        """The rows' examples in order; rows that have none are added to `faults`.

        Raises:
            UsageError: if the tokenizer lacks a chat template or EOS and a row needs it.
        """
        iterator = iter(rows)
        while some := list(islice(iterator, ROWS_AT_A_TIME)):
            yield from self._encoded(some, task, faults)

    def _encoded(self, rows: Sequence[Row], task: str, faults: Faults) -> Iterator[Example]:
        read: list[_Read | BadRow] = []
        for row in rows:
            try:
                read.append(self._read(row, task))
            except BadRow as bad:
                read.append(bad)
        good = [item for item in read if isinstance(item, _Read)]
        tokens = iter(self._tokenised(good))
        for row, item in zip(rows, read, strict=True):
            if isinstance(item, BadRow):
                faults.add(row.place, str(item))
                continue
            try:
                example = self._example(item, next(tokens), row.place)
            except BadRow as bad:
                faults.add(row.place, str(bad))
                continue
            if example.target_count:
                yield example
            else:
                faults.add(row.place, "no token of the row is a target: nothing can be learnt")

    def _read(self, row: Row, task: str) -> _Read:
        own = row.columns.get("task")
        if own is not None and not isinstance(own, str):
            raise BadRow(f"'task' is {own!r}, not a string")
        said = content(row.columns)
        match said:
            case Chat():
                rendered = self._template(row.place).render(said)
                escaped = bool(rendered.forged)
            case Text():
                rendered = Rendered(said.text, ())
                escaped = self._escape and bool(self._special.search(said.text))
            case Written():
                rendered = _joined(said)
                escaped = self._escape and bool(self._special.search(rendered.text))
        return _Read(said, rendered, own or task, escaped)

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
        return ChatTemplate(self._tokenizer, escape=self._escape)

    def _tokenised(self, items: Sequence[_Read]) -> list[_Tokens | None]:
        """Whole documents cut into tokens, those of a kind in one call; None: has to be pieced."""
        found: list[_Tokens | None] = [None] * len(items)
        for kind in (Text, Written, Chat):
            numbers = [
                number
                for number, item in enumerate(items)
                if isinstance(item.content, kind) and not item.rendered.forged
            ]
            if not numbers or (kind is not Text and not self._tokenizer.is_fast):
                continue
            output = self._tokenizer(
                [items[number].rendered.text for number in numbers],
                add_special_tokens=kind is not Chat,
                split_special_tokens=self._escape and kind is not Chat,
                return_offsets_mapping=kind is not Text,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            offsets = output["offset_mapping"] if kind is not Text else [()] * len(numbers)
            for number, ids, where in zip(numbers, output["input_ids"], offsets, strict=True):
                ranges = np.array(where, dtype=np.int64).reshape(-1, 2)
                found[number] = _Tokens(np.array(ids, dtype=np.int32), ranges)
        return found

    def _example(self, item: _Read, tokens: _Tokens | None, place: str) -> Example:
        spans = item.rendered.spans
        if tokens is None or _straddles(tokens.ranges, spans):
            ids, parts = self._pieced(item.rendered, templated=isinstance(item.content, Chat))
        elif isinstance(item.content, Text):
            ids, parts = tokens.ids, np.full(len(tokens.ids), ANSWER, dtype=np.int8)
        else:
            ids, parts = tokens.ids, _parts_of(tokens.ranges, spans)
        if not isinstance(item.content, Chat):
            ids, parts = self._ended(*self._begun_once(ids, parts), place)
        return Example(
            ids=ids,
            is_target=parts != NOT_A_TARGET,
            parts=np.maximum(parts, 0),
            task=item.task,
            key=stable_key(ids, item.task),
            place=place,
            is_text=isinstance(item.content, Text),
            escaped=item.escaped,
        )

    def _begun_once(self, ids: _Ids, parts: _Parts) -> tuple[_Ids, _Parts]:
        twice = self._adds_bos and len(ids) > 1 and ids[0] == ids[1]
        return (ids[1:], parts[1:]) if twice else (ids, parts)

    def _ended(self, ids: _Ids, parts: _Parts, place: str) -> tuple[_Ids, _Parts]:
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise UsageError(
                f"{place}: the document ends with EOS, but the tokenizer "
                f"'{self._tokenizer.name_or_path}' has no eos_token. Set it in the tokenizer's "
                "configuration."
            )
        if len(ids) and ids[-1] == eos:
            ids, parts = ids[:-1], parts[:-1]
        return np.append(ids, np.int32(eos)), np.append(parts, np.int8(ANSWER))

    def _pieced(self, rendered: Rendered, *, templated: bool) -> tuple[_Ids, _Parts]:
        """Tokenises between the boundaries, which is how a model meets them when it writes."""
        cuts = {0, len(rendered.text)}
        cuts.update(cut for span in rendered.spans for cut in (span.start, span.stop))
        cuts.update(cut for forged in rendered.forged for cut in forged)
        ids: list[int] = []
        parts: list[int] = []
        for start, stop in pairwise(sorted(cuts)):
            text = rendered.text[start:stop]
            if (start, stop) in rendered.forged:
                some = self._as_text(text)
            elif start == 0:
                some = self._ids([text], begins=not templated, escape=not templated)[0]
                if self._adds_eos and not templated:
                    some = some[:-1]
            else:
                some = self._continued(text, escape=not templated)
            part = next((s.part for s in rendered.spans if s.start <= start < s.stop), NOT_A_TARGET)
            ids += some
            parts += [part] * len(some)
        return np.array(ids, dtype=np.int32), np.array(parts, dtype=np.int8)

    def _as_text(self, token: str) -> list[int]:
        """The spelling of a control token, in ids that are not that token."""
        ids = self._continued(token[0], escape=True) + self._continued(token[1:], escape=True)
        if not self._control_ids.isdisjoint(ids):
            raise BadRow(f"the text holds {token!r}, which the tokenizer cannot write as text")
        return ids

    def _continued(self, text: str, *, escape: bool) -> list[int]:
        """Tokens of a text inside a document: without the space that some tokenizers put first."""
        ids = self._ids([f"\n{text}"], begins=False, escape=escape)[0]
        if ids[: len(self._newline)] == self._newline:
            return ids[len(self._newline) :]
        return self._ids([text], begins=False, escape=escape)[0]

    def _ids(
        self, texts: list[str], *, begins: bool = True, escape: bool = True
    ) -> list[list[int]]:
        output: Any = self._tokenizer(
            texts,
            add_special_tokens=begins,
            split_special_tokens=escape and self._escape,
            verbose=False,
        )
        ids: list[list[int]] = output["input_ids"]
        return ids


_Ids = Int32[np.ndarray, " n"]
_Parts = Int8[np.ndarray, " n"]


class _Read(NamedTuple):
    content: Content
    rendered: Rendered
    task: str
    escaped: bool


class _Tokens(NamedTuple):
    ids: _Ids
    ranges: np.ndarray
    """The characters of each token, `[n, 2]`; empty where nobody asks."""


def _joined(written: Written) -> Rendered:
    text, spans = "", []
    for piece in written.pieces:
        if piece.part != NOT_A_TARGET:
            spans.append(Span(len(text), len(text) + len(piece.text), piece.part))
        text += piece.text
    return Rendered(text, tuple(spans))


def _straddles(ranges: np.ndarray, spans: Sequence[Span]) -> bool:
    starts, stops = ranges.T
    cuts = [cut for span in spans for cut in (span.start, span.stop)]
    return any(bool(((starts < cut) & (cut < stops)).any()) for cut in cuts)


def _parts_of(ranges: np.ndarray, spans: Sequence[Span]) -> _Parts:
    starts, stops = ranges.T
    parts = np.full(len(ranges), NOT_A_TARGET, dtype=np.int8)
    for span in spans:
        parts[(starts >= span.start) & (stops <= span.stop) & (starts < stops)] = span.part
    return parts
