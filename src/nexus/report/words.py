"""Numbers as people read them: three digits, and an interval with as many decimals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nexus.results import Estimate

ABSENT = "–"

SHORTENED = 1e6
"""Estimates from here on are shown like counts: a ruined student's perplexity fills no table."""


@dataclass(frozen=True)
class Cell:
    """A value and its interval, ready to be shown."""

    value: str = ABSENT
    interval: str = ""

    @property
    def line(self) -> str:
        """On one line of plain text."""
        return f"{self.value} [{self.interval}]" if self.interval else self.value


def cell(estimate: Estimate | None) -> Cell:
    """An estimate as text. Shares are in percent."""
    if estimate is None:
        return Cell()
    scale, decimals, suffix = 1.0, _decimals(estimate.value), ""
    if estimate.unit == "share":
        scale, decimals, suffix = 100.0, 1, "\N{NO-BREAK SPACE}%"
    elif estimate.unit == "×":
        decimals, suffix = min(decimals, 2), "×"
    show = _fixed if abs(estimate.value) < SHORTENED else _shortened
    value = show(estimate.value * scale, decimals) + suffix
    if estimate.low is None or estimate.high is None:
        return Cell(value)
    low, high = (show(end * scale, decimals) for end in (estimate.low, estimate.high))
    return Cell(value, f"{low}\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}{high}")


def plain(value: float) -> str:
    """A number with three significant digits, never in exponent form."""
    return _fixed(value, _decimals(value))


def count(value: int) -> str:
    """A number of things: 134,515,008."""
    return f"{value:,}"


def short_count(value: int | float) -> str:
    """A number of things in few letters: 135 M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{plain(value / size)}\N{NO-BREAK SPACE}{letter}"
    return f"{value:.0f}"


def size_on_disk(value: int) -> str:
    """Bytes in decimal units, as disks are sold: 269 MB."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{plain(value / size)}\N{NO-BREAK SPACE}{unit}"
    return f"{value} bytes"


def duration(seconds: float) -> str:
    """8 min 3 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _decimals(value: float) -> int:
    if value == 0:
        return 0
    return max(0, min(4, 2 - math.floor(math.log10(abs(value)))))


def _shortened(value: float, _: int) -> str:
    return short_count(value)


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
