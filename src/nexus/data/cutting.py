"""Documents as text → token ids, and which part each token is a target of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int8, Int32
from transformers import PreTrainedTokenizerBase

from nexus.batch import ANSWER
from nexus.data.control import ControlTokens
from nexus.data.faults import BadRow
from nexus.data.layouts import NOT_A_TARGET, Chat, Content, Text, Written
from nexus.data.template import Rendered, Span

Ids = Int32[np.ndarray, " n"]
Parts = Int8[np.ndarray, " n"]


class Cut(NamedTuple):
    """Tokens, and the part each is a target of, or `NOT_A_TARGET`."""

    ids: Ids
    parts: Parts


class Cutter:
    """Cuts documents into tokens so that no token lies across a boundary of what is a target.

    That is how a model meets them when it writes. Text that spells a control token becomes tokens
    that are none.

    Args:
        tokenizer: Any Hugging Face tokenizer; fast ones are several times faster here.
        control: Its control tokens.
        escape: False: text that spells a control token is that token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, *, escape: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._escape = escape
        self._is_control = np.zeros(max(control.ids, default=0) + 1, dtype=bool)
        self._is_control[list(control.ids)] = True
        probe = self._ids(["a"])[0]
        self._adds_bos = bool(probe) and probe[0] == tokenizer.bos_token_id
        self._adds_eos = bool(probe) and probe[-1] == tokenizer.eos_token_id
        self._own = len(control.ids.intersection(probe))
        self._newline = self._ids(["\n"], begins=False)[0]

    def cut(self, contents: Sequence[Content], texts: Sequence[Rendered]) -> list[Cut | BadRow]:
        """Each document in tokens, BOS included if it is the tokenizer's to add, or why not."""
        found: list[Cut | BadRow] = []
        wholes = self._wholes(contents, texts)
        for content, text, whole in zip(contents, texts, wholes, strict=True):
            try:
                found.append(self._cut(content, text, whole))
            except BadRow as bad:
                found.append(bad)
        return found

    def _cut(self, content: Content, text: Rendered, whole: _Whole | None) -> Cut:
        templated = isinstance(content, Chat)
        if whole is None or _straddles(whole.ranges, text.spans):
            cut = self._pieced(text, templated=templated)
        elif isinstance(content, Text):
            cut = Cut(whole.ids, np.full(len(whole.ids), ANSWER, dtype=np.int8))
        else:
            cut = Cut(whole.ids, _parts_of(whole.ranges, text.spans))
        if not templated:
            twice = self._adds_bos and len(cut.ids) > 1 and cut.ids[0] == cut.ids[1]
            cut = Cut(cut.ids[1:], cut.parts[1:]) if twice else cut
        if self._escape:
            self._check(cut, text, templated=templated)
        return cut

    def _check(self, cut: Cut, text: Rendered, *, templated: bool) -> None:
        """The last word: a normaliser, too, can make a control token of what looked like none."""
        known = cut.ids[cut.ids < len(self._is_control)]
        found = int(self._is_control[known].sum())
        written = self._control.all if templated else self._control.markers
        allowed = 0 if templated else self._own
        if found > allowed and written is not None:
            forged = set(text.forged)
            allowed += sum(match.span() not in forged for match in written.finditer(text.text))
        if found > allowed:
            raise BadRow("the tokenizer reads a control token in its text, and it holds none")

    def _wholes(
        self, contents: Sequence[Content], texts: Sequence[Rendered]
    ) -> list[_Whole | None]:
        """Whole documents cut into tokens, those of a kind in one call; None: has to be pieced."""
        found: list[_Whole | None] = [None] * len(texts)
        for kind in (Text, Written, Chat):
            numbers = [
                number
                for number, content in enumerate(contents)
                if isinstance(content, kind) and not texts[number].forged
            ]
            if not numbers or (kind is not Text and not self._tokenizer.is_fast):
                continue
            output = self._tokenizer(
                [texts[number].text for number in numbers],
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
                found[number] = _Whole(np.array(ids, dtype=np.int32), ranges)
        return found

    def _pieced(self, rendered: Rendered, *, templated: bool) -> Cut:
        """Cuts between the boundaries."""
        cuts = {0, len(rendered.text)}
        cuts.update(cut for span in rendered.spans for cut in (span.start, span.stop))
        cuts.update(cut for forged in rendered.forged for cut in forged)
        forged = set(rendered.forged)
        bare = not templated and any(start == 0 for start, _ in forged)
        ids = [self._tokenizer.bos_token_id] if bare and self._adds_bos else []
        parts = [NOT_A_TARGET] * len(ids)
        for start, stop in pairwise(sorted(cuts)):
            text = rendered.text[start:stop]
            if (start, stop) in forged:
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
        return Cut(np.array(ids, dtype=np.int32), np.array(parts, dtype=np.int8))

    def _as_text(self, token: str) -> list[int]:
        """The spelling of a control token, in ids that are none."""
        for pieces in ((token[0], token[1:]), tuple(token)):
            ids = [id_ for piece in pieces for id_ in self._continued(piece, escape=True)]
            if self._control.ids.isdisjoint(ids):
                return ids
        raise BadRow(f"the text holds {token!r}, which the tokenizer cannot write as text")

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


class _Whole(NamedTuple):
    ids: Ids
    ranges: np.ndarray
    """The characters of each token, `[n, 2]`; empty where nobody asks."""


def _straddles(ranges: np.ndarray, spans: Sequence[Span]) -> bool:
    starts, stops = ranges.T
    cuts = [cut for span in spans for cut in (span.start, span.stop)]
    return any(bool(((starts < cut) & (cut < stops)).any()) for cut in cuts)


def _parts_of(ranges: np.ndarray, spans: Sequence[Span]) -> Parts:
    starts, stops = ranges.T
    parts = np.full(len(ranges), NOT_A_TARGET, dtype=np.int8)
    for span in spans:
        parts[(starts >= span.start) & (stops <= span.stop) & (starts < stops)] = span.part
    return parts
