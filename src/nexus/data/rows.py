"""Rows of packed documents: of examples in memory, or of a stream that is read as it is needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import numpy as np

from nexus.data.chat import Example
from nexus.data.examples import Examples
from nexus.data.ingest import Ingest
from nexus.data.packing import pack, pack_in_order

STREAM_WINDOW = 1024


class Rows(ABC):
    """The rows of one task, each a list of documents that fit into it together."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many different rows there are; None when only the end of a stream would tell."""

    @property
    @abstractmethod
    def at_hand(self) -> int:
        """How many rows can be had without reading on."""

    @abstractmethod
    def __getitem__(self, number: int) -> list[Example]: ...


class Packed(Rows):
    """Rows of examples in memory.

    Args:
        examples: Where the documents are.
        numbers: Which of them to use.
        length: The length of a row.
        packing: False: one document a row.
        in_order: Keep the documents in their order, at the price of emptier rows.
    """

    def __init__(
        self,
        examples: Examples,
        numbers: np.ndarray,
        length: int,
        *,
        packing: bool = True,
        in_order: bool = False,
    ) -> None:
        self._examples = examples
        lengths = examples.lengths[numbers].tolist()
        rows = _packed(lengths, length, packing=packing, in_order=in_order)
        self._numbers = numbers[
            np.fromiter((n for row in rows for n in row), np.int64, len(numbers))
        ]
        self._stops = np.cumsum([0, *map(len, rows)])

    @property
    def size(self) -> int:
        return len(self._stops) - 1

    @property
    def at_hand(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> list[Example]:
        start, stop = self._stops[number : number + 2]
        return [self._examples[int(which)] for which in self._numbers[start:stop]]


class Streamed(Rows):
    """Rows of a stream in its order, packed within windows of 1,024 documents, without end.

    Row n is the same whenever it is asked for. Going back means reading from the start again.
    """

    def __init__(self, ingest: Ingest, length: int, *, packing: bool = True) -> None:
        self.ingest = ingest
        self._length = length
        self._packing = packing
        self._first = 0
        self._window: list[list[Example]] = []
        self._documents: Iterator[Example] = iter(())

    @property
    def size(self) -> None:
        return None

    @property
    def at_hand(self) -> int:
        return self._first + len(self._window)

    def __getitem__(self, number: int) -> list[Example]:
        if number < self._first:
            self._first, self._window, self._documents = 0, [], iter(())
        while number >= self._first + len(self._window):
            self._first += len(self._window)
            self._window = self._next_window()
        return self._window[number - self._first]

    def _next_window(self) -> list[list[Example]]:
        documents = list(islice(self._documents, STREAM_WINDOW))
        if not documents:
            self._documents = self.ingest.examples()
            documents = list(islice(self._documents, STREAM_WINDOW))
        self.ingest.faults.settle(f"{self.ingest.source.label}, as far as it was read")
        rows = _packed([len(document) for document in documents], self._length, self._packing)
        return [[documents[number] for number in row] for row in sorted(rows)]


def _packed(
    lengths: list[int], length: int, packing: bool, in_order: bool = False
) -> list[list[int]]:
    if not packing:
        return [[number] for number in range(len(lengths))]
    return pack_in_order(lengths, length) if in_order else pack(lengths, length)
