from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.report.words import Cell, cell, duration, plain, short_count, size_on_disk
from nexus.results import Estimate, Unit

SPACE = "\N{NO-BREAK SPACE}"
GAP = f"{SPACE}–{SPACE}"


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "shown"),
    [
        (0.6281, 0.619, 0.637, "share", Cell(f"62.8{SPACE}%", f"61.9{GAP}63.7")),
        (26.604, 25.31, 28.0, "", Cell("26.6", f"25.3{GAP}28.0")),
        (0.66804, 0.6512, 0.6861, "nats", Cell("0.668", f"0.651{GAP}0.686")),
        (3361.2, 3197.0, 3533.4, "", Cell("3,361", f"3,197{GAP}3,533")),
        (1.8666, 1.8, 1.9, "×", Cell("1.87×", f"1.80{GAP}1.90")),
        (-4.94, -5.05, -4.83, "nats", Cell("−4.94", f"−5.05{GAP}−4.83")),
        (2.559e8, 1.312e8, 1.2e9, "", Cell(f"256{SPACE}M", f"131{SPACE}M{GAP}1.20{SPACE}B")),
        (0.0, None, None, "", Cell("0")),
    ],
)
def test_estimates_as_people_read_them(
    value: float, low: float | None, high: float | None, unit: Unit, shown: Cell
) -> None:
    assert cell(Estimate(value=value, low=low, high=high, n=5, unit=unit)) == shown


def test_what_is_absent_is_a_dash() -> None:
    assert cell(None) == Cell("–", "")


@given(st.floats(0.01, 1e9))
def test_a_plain_number_reads_back_within_half_a_percent(value: float) -> None:
    text = plain(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(134_515_008, "135 M"), (1.5e9, "1.50 B"), (950, "950"), (368_640, "369 k"), (2e12, "2.00 T")],
)
def test_counts_in_few_letters(value: float, shown: str) -> None:
    assert short_count(value).replace(SPACE, " ") == shown


def test_sizes_on_disk() -> None:
    found = [size_on_disk(size).replace(SPACE, " ") for size in (12, 1500, 269_000_000)]
    assert found == ["12 bytes", "1.50 kB", "269 MB"]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (7.4, 483.0, 3725.0)] == [
        "7 s",
        "8 min 3 s",
        "1 h 2 min",
    ]
