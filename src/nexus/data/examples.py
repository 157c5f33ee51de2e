"""Examples: many tokenised documents held in a few flat arrays."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

import numpy as np

from nexus.data.chat import Example

KEY_BYTES = 16
IS_TEXT, TRUNCATED, ESCAPED = 1, 2, 4


class Examples:
    """A growing list of examples that takes 5 bytes a token and some 50 bytes a document."""

    def __init__(self) -> None:
        self.task_names: list[str] = []
        self._ids = bytearray()
        self._parts = bytearray()
        self._stops = array("q", [0])
        self._keys = bytearray()
        self._tasks = array("i")
        self._marks = bytearray()
        self._places = bytearray()
        self._place_stops = array("q", [0])

    def __len__(self) -> int:
        return len(self._tasks)

    def append(self, example: Example) -> None:
        if example.task not in self.task_names:
            self.task_names.append(example.task)
        self._ids += example.ids.tobytes()
        self._parts += (example.parts << 1 | example.is_target).astype(np.int8).tobytes()
        self._stops.append(self._stops[-1] + len(example))
        self._keys += bytes.fromhex(example.key)
        self._tasks.append(self.task_names.index(example.task))
        self._marks.append(
            IS_TEXT * example.is_text + TRUNCATED * example.truncated + ESCAPED * example.escaped
        )
        self._places += example.place.encode()
        self._place_stops.append(len(self._places))

    def __getitem__(self, number: int) -> Example:
        start, stop = self._stops[number], self._stops[number + 1]
        ids = np.frombuffer(self._ids, np.int32, stop - start, start * 4).copy()
        packed = np.frombuffer(self._parts, np.int8, stop - start, start)
        marks = self._marks[number]
        place = self._places[self._place_stops[number] : self._place_stops[number + 1]]
        return Example(
            ids=ids,
            is_target=packed & 1 == 1,
            parts=packed >> 1,
            task=self.task_names[self._tasks[number]],
            key=self.key(number),
            place=place.decode(),
            is_text=bool(marks & IS_TEXT),
            truncated=bool(marks & TRUNCATED),
            escaped=bool(marks & ESCAPED),
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def key(self, number: int) -> str:
        return self._keys[number * KEY_BYTES : (number + 1) * KEY_BYTES].hex()

    def keys(self) -> Iterator[str]:
        return (self.key(number) for number in range(len(self)))

    @property
    def digest(self) -> bytes:
        """SHA-256 of all documents in order: their tokens, targets, parts and tasks."""
        whole = hashlib.sha256(repr(self.task_names).encode())
        for column in (self._ids, self._parts, self._stops, self._tasks):
            whole.update(len(column).to_bytes(8, "little"))
            whole.update(column)
        return whole.digest()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document."""
        return np.diff(np.frombuffer(self._stops, np.int64))

    @property
    def tokens(self) -> int:
        return self._stops[-1]

    def of_task(self, task: str) -> np.ndarray:
        """The numbers of a task's documents, in order."""
        tasks = np.frombuffer(self._tasks, np.int32) if len(self) else np.empty(0, np.int32)
        return np.flatnonzero(tasks == self.task_names.index(task))
