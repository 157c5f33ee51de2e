"""Faults: what is wrong with which row, and whether that stops the run."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nexus.errors import UsageError

OnBadRow = Literal["error", "skip"]

MOST_LISTED = 1000


class Fault(NamedTuple):
    """A row that cannot be used."""

    place: str
    reason: str


class BadRow(Exception):
    """Raised while one row is read, caught where the row's place is known. Never leaves `data`."""


class Faults:
    """Collects bad rows: `error` stops at the first, `skip` counts all and lists the first ones."""

    def __init__(self, policy: OnBadRow = "error") -> None:
        self.policy = policy
        self.count = 0
        self.listed: list[Fault] = []

    def add(self, place: str, reason: str) -> None:
        """Raises `UsageError` with place, reason and remedy unless bad rows are skipped."""
        if self.policy == "error":
            raise UsageError(
                f"{place}: {reason}. Correct the row, or set data.on_bad_row: skip to leave such "
                "rows out; they are then counted and listed."
            )
        self.count += 1
        if len(self.listed) < MOST_LISTED:
            self.listed.append(Fault(place, reason))


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
