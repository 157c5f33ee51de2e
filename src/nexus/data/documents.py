"""Documents: token ids of what was read, without the rows that it was packed into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Int32
from numpy import ndarray

from nexus.data.chat import Example


@dataclass(frozen=True)
class Documents:
    """The ids of documents, as often as they are asked for."""

    rows: Callable[[], Iterable[Sequence[Example]]]
    """Reads the rows from the first one on."""

    def __iter__(self) -> Iterator[Int32[ndarray, " tokens"]]:
        for row in self.rows():
            for example in row:
                yield example.ids
