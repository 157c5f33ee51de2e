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
    elif estimate.unit == "s":
        scale, suffix = _seconds(estimate.value)
        decimals = _decimals(estimate.value * scale)
    show = _fixed if abs(estimate.value) < SHORTENED else _shortened
    value = show(estimate.value * scale, decimals) + suffix
    if estimate.low is None or estimate.high is None:
        return Cell(value)
    low, high = (show(end * scale, decimals) for end in (estimate.low, estimate.high))
    return Cell(value, f"{low}\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}{high}")


def signed(difference: Estimate) -> Cell:
    """A difference with its sign; of shares in points, since it is no share of anything."""
    shown = cell(difference)
    sign = "+" if difference.value > 0 else ""
    return Cell(sign + shown.value.replace("%", "pt"), shown.interval)


def p_value(value: float) -> str:
    """A probability of a test, never as the zero that it is not."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def plain(value: int | float) -> str:
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
    if not whole:
        return "under 1 s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _seconds(value: float) -> tuple[float, str]:
    """The factor and the name of the unit in which so many seconds are said."""
    if abs(value) >= 1:
        return 1.0, "\N{NO-BREAK SPACE}s"
    return 1000.0, "\N{NO-BREAK SPACE}ms"


def _decimals(value: int | float) -> int:
    if value == 0:
        return 0
    return max(0, min(4, 2 - math.floor(math.log10(abs(value)))))


def _shortened(value: float, _: int) -> str:
    return short_count(value)


def _fixed(value: int | float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0."):
        text = text.removeprefix("-")  # nothing is less than nothing
    return text.replace("-", "\N{MINUS SIGN}")
