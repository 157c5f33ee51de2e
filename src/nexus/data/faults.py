"""Faults: what is wrong with which rows, and whether that stops the run."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from nexus.data.rejected import Rejected
from nexus.errors import UsageError

OnBadRow = Literal["error", "skip"]

MOST_LISTED = 20
"""How many bad rows a message or a summary names. All are counted."""

_MOST_KEPT = 1000
"""Rows are read some hundreds ahead: those found first are not always those that come first."""

MOST_CHARACTERS = 400
"""Of a reason: a row must not be able to fill the screen."""


class Fault(NamedTuple):
    """A row that cannot be used."""

    place: str
    """`file:line:column`, `file:line` where no column is to blame, or `name[row]`."""
    reason: str


class BadRow(Exception):
    """Raised while one row is read, caught where the row's place is known. Never leaves `data`.

    Args:
        reason: What is wrong and what would be right.
        column: The character of the line at which it shows, from 1.
    """

    def __init__(self, reason: str, column: int | None = None) -> None:
        super().__init__(reason)
        self.column = column


class Faults:
    """Collects the bad rows of one source: all are counted, the first listed.

    Args:
        policy: `error`: `settle` raises if there were any. `skip`: they are left out.
        rejected: Receives every bad row under `skip`.
        streamed: There may be no end to the source: `error` does not wait for it.
        in_recipe: A recipe says what becomes of bad rows, so that another choice can be advised.
    """

    def __init__(
        self,
        policy: OnBadRow = "error",
        *,
        rejected: Rejected | None = None,
        streamed: bool = False,
        in_recipe: bool = True,
    ) -> None:
        self.policy = policy
        self._in_recipe = in_recipe
        self.count = 0
        self._kept: list[Fault] = []
        self._rejected = rejected
        self._streamed = streamed
        self._written = 0

    @property
    def listed(self) -> list[Fault]:
        """The first bad rows in the order of the source, at most `MOST_LISTED` of them."""
        return sorted(self._kept, key=lambda fault: _in_order(fault.place))[:MOST_LISTED]

    def begin(self) -> None:
        """Another pass over the same rows: what is found again is counted again from 0."""
        self.count = 0
        self._kept.clear()

    def add(self, place: str, reason: str, row: Any = None) -> None:
        """One more bad row.

        Args:
            place: Where it is.
            reason: What is wrong with it. What does not print is escaped.
            row: Its bytes or its columns, as far as they are known.

        Raises:
            UsageError: Only of a stream, and when no more rows would be listed anyway.
        """
        self.count += 1
        fault = Fault(printable(place), printable(reason))
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(fault)
        if self._streamed and self.count == MOST_LISTED:
            self.settle("a stream")
        if self.policy == "skip" and self._rejected is not None and self.count > self._written:
            self._rejected.add(fault.place, fault.reason, row)
            self._written = self.count

    def settle(self, source: str, rows: int | None = None) -> None:
        """Raises `UsageError` under `error` if there are bad rows: places, reasons and the remedy.

        Args:
            source: What the message calls the source.
            rows: How many rows were read, if that is all of them.
        """
        if self.policy == "skip" or not self.count:
            return
        remedy = (
            "set data.on_bad_row: skip to leave such rows out; they are then counted, and written "
            "to rejected.jsonl in the run directory."
            if self._in_recipe
            else "take it out."
        )
        listed = self.listed
        if self.count == 1:
            (fault,) = listed
            raise UsageError(f"{fault.place}: {fault.reason}. Correct the row, or {remedy}")
        whole = f" of {rows:,}" if rows is not None else ""
        more = ", the first of them:" if self.count > len(listed) else ":"
        lines = "\n".join(f"  {fault.place}: {fault.reason}" for fault in listed)
        raise UsageError(
            f"{source}: {self.count:,}{whole} rows cannot be used{more}\n{lines}\n"
            f"Correct the rows, or {remedy}"
        )


def _in_order(place: str) -> list[str | int]:
    """Line 9 comes before line 10."""
    parts = re.split(r"(\d+)", place)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def printable(text: str) -> str:
    """The text without anything that steers a terminal or hides, and not too long."""
    cut = text[:MOST_CHARACTERS]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return safe if cut == text else f"{safe}…"


def unclean(text: str) -> str | None:
    """Why a string cannot be trained on, if it cannot."""
    if "\x00" in text:
        return f"it holds a NUL character at position {text.index(chr(0))}"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"it holds a lone surrogate (half a character) at position {error.start}"
    return None
