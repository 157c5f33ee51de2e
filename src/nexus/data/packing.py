"""Packing: documents of different lengths → full rows, and what becomes of those too long."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from nexus.data.chat import Example, stable_key
from nexus.errors import UsageError

OverLong = Literal["error", "split", "truncate", "drop"]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit-decreasing bin packing: the longest first, each into the fullest row it fits in.

    Uses at most 11/9 of the fewest possible rows (plus one), and is a pure function of the lengths:
    ties go to the earlier document and the older row.

    Args:
        lengths: The length of each document, at least 1.
        capacity: The length of a row.

    Returns:
        For each row the numbers of its documents, in the order they were given. Every document is
        in exactly one row.

    Raises:
        ValueError: if a document is longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and not (sizes.min() >= 1 and sizes.max() <= capacity):
        raise ValueError(f"lengths must be from 1 to {capacity}")
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for number in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[number])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = by_room[room].pop()
            if not by_room[room]:
                del rooms[at]
        rows[row].append(number)
        if room > length:
            left = room - length
            if not by_room[left]:
                rooms.insert(bisect_left(rooms, left), left)
            by_room[left].append(row)
    return [sorted(row) for row in rows]


def pack_in_order(lengths: Iterable[int], capacity: int) -> list[list[int]]:
    """Rows in which the documents keep their order: a new row whenever the next does not fit."""
    rows: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"lengths must be from 1 to {capacity}")
        if not rows or length > room:
            rows.append([])
            room = capacity
        rows[-1].append(number)
        room -= length
    return rows


def fitted(example: Example, length: int, over_long: OverLong) -> list[Example]:
    """The example in pieces of at most `length` tokens; an over-long one as `over_long` says.

    - `error`: raise.
    - `split`: plain texts only. Each piece is a document of its own: it sees nothing of the pieces
      before it, and its first token is nobody's target.
    - `truncate`: cut the end. What is left may hold no target any more.
    - `drop`: leave it out.

    Raises:
        UsageError: under `error`, and under `split` when the example is not a plain text.
    """
    if len(example) <= length:
        return [example]
    match over_long:
        case "drop":
            return []
        case "truncate":
            return [_piece(example, 0, length, truncated=True)]
        case "split" if example.is_text:
            starts = range(0, len(example), length)
            return [_piece(example, start, start + length) for start in starts]
        case "split":
            raise UsageError(
                f"{example.place}: {len(example)} tokens, over sequence_length {length}, and only "
                "plain texts can be split (a piece of an answer without its prompt is not an "
                "answer). Raise data.sequence_length, or set data.over_long: truncate or drop."
            )
        case "error":
            raise UsageError(
                f"{example.place}: {len(example)} tokens, over sequence_length {length}. Raise "
                "data.sequence_length, or set data.over_long: split (plain texts), truncate or "
                "drop; what is done is then counted."
            )


def _piece(example: Example, start: int, stop: int, *, truncated: bool = False) -> Example:
    ids = example.ids[start:stop]
    return replace(
        example,
        ids=ids,
        is_target=example.is_target[start:stop],
        parts=example.parts[start:stop],
        key=stable_key(ids, example.task),
        truncated=truncated,
    )
