"""Agreement: how far a smaller tokenizer writes text as the whole one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer

_TEXTS = 512
"""How many texts are encoded at a time."""

GONE = -1
"""The place of an id that is not kept."""


@dataclass
class Agreement:
    """What two tokenizers made of some texts."""

    texts: int = 0
    covered: int = 0
    """Texts whose tokens are all kept."""
    bytes: int = 0
    """Of all texts, in UTF-8."""
    alike: int = 0
    """Of these, the bytes of tokens that both have in the same place."""
    before: int = 0
    """Tokens of the whole tokenizer."""
    after: int = 0
    broken: int = 0
    """Words whose tokens are all kept, but that came out otherwise: none, if all is well."""

    @property
    def share(self) -> float:
        """Of the bytes, those that are encoded alike."""
        return self.alike / self.bytes if self.bytes else 1.0

    @property
    def longer(self) -> float:
        """By how much of itself the text takes more tokens."""
        return self.after / self.before - 1 if self.before else 0.0


def agreement(
    whole: Tokenizer, small: Tokenizer, places: Int[ndarray, " ids"], texts: Iterable[str]
) -> Agreement:
    """Encode texts with both, each text by itself and nothing put around it.

    Args:
        whole: the tokenizer that was cut.
        small: what came out.
        places: the new id of each old one, or `GONE`.
        texts: what to compare on.
    """
    found = Agreement()
    rest = iter(texts)
    while some := list(islice(rest, _TEXTS)):
        for text, one, other in zip(some, *(_encoded(each, some) for each in (whole, small)),
                                    strict=True):  # fmt: skip
            _add(found, text, one, other, places)
    return found


def encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """The ids of each text by itself, nothing put around it."""
    rest = iter(texts)
    while some := list(islice(rest, _TEXTS)):
        for one in _encoded(tokenizer, some):
            yield one.ids


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Any]:
    return tokenizer.encode_batch(texts, add_special_tokens=False)


def _add(found: Agreement, text: str, one: Any, other: Any, places: ndarray) -> None:
    size = len(text.encode("utf-8", "replace"))
    moved = places[np.asarray(one.ids, dtype=np.int64)]
    after = np.asarray(other.ids, dtype=np.int64)
    found.texts += 1
    found.covered += bool((moved != GONE).all())
    found.bytes += size
    found.before += len(moved)
    found.after += len(after)
    if np.array_equal(moved, after):
        found.alike += size
        return
    new = _words(other, other.ids)
    for number, ids in _words(one, moved.tolist()).items():
        found.broken += GONE not in ids and ids != new.get(number)
    found.alike += _same_bytes(text, one, moved.tolist(), other)


def _words(encoding: Any, ids: list[int]) -> dict[int | None, list[int]]:
    """The ids of every word: of what the tokenizer takes apart before it begins to merge."""
    pairs = zip(encoding.word_ids, ids, strict=True)
    found: dict[int | None, list[int]] = {}
    for word, entries in groupby(pairs, key=lambda pair: pair[0]):
        found.setdefault(word, []).extend(number for _, number in entries)
    return found


def _same_bytes(text: str, one: Any, moved: list[int], other: Any) -> int:
    """The bytes of characters that only tokens lie on that both encodings have there."""
    tokens = set(zip(other.offsets, other.ids, strict=True))
    alike = bytearray(len(text))
    for (begin, end), number in zip(one.offsets, moved, strict=True):
        if ((begin, end), number) in tokens:
            alike[begin:end] = b"\1" * (end - begin)
    for (begin, end), number in zip(one.offsets, moved, strict=True):
        if ((begin, end), number) not in tokens:
            alike[begin:end] = bytes(end - begin)
    pieces = (letter for letter, same in zip(text, alike, strict=True) if same)
    return len("".join(pieces).encode("utf-8", "replace"))
