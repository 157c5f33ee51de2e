"""Every interval holds the truth as often as it says, and McNemar's test keeps its level."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from coverage import Row, described, false_alarms, row, simulate
from worlds import Confidences, Documents, Items, World

from nexus.results import Estimate, Refused

SETS = 400
LUCK = 3.5 * math.sqrt(0.95 * 0.05 / SETS)
"""Of one row; all rows of a world together are also held to the 93 to 97 % that are claimed."""


@pytest.mark.parametrize(
    "world",
    [
        Documents(28),
        Documents(60),
        Items(200, teacher=0.6, trained=0.5, untrained=0.3),
        Items(300, teacher=0.75, trained=0.6, untrained=0.4, together=6),
    ],
    ids=str,
)
def test_every_interval_covers(world: World) -> None:
    """Take the percentiles of the resamples instead, and several rows fall to 90 %."""
    rows = simulate(world, SETS, resamples=600, seed=11)
    assert len(rows) == (10 if isinstance(world, Documents) else 6)
    for each in rows:
        assert each.refused <= SETS // 20, each
        assert abs(each.coverage - 0.95) <= LUCK, each
    assert 0.93 <= statistics.mean(each.coverage for each in rows) <= 0.97


@pytest.mark.parametrize(
    "world",
    [Confidences(28, over=0.1), Confidences(30, over=0.06, off=0.08, unequal=0.0)],
    ids=str,
)
def test_the_interval_of_the_calibration_error_covers(world: Confidences) -> None:
    """Leave out the shape that is the same everywhere, and the first falls to 88 %."""
    (found,) = simulate(world, 250, seed=11)
    assert found.refused == 0
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 250) <= found.coverage <= 0.99


@pytest.mark.parametrize("together", [1, 6])
def test_equally_good_models_are_seldom_called_different(together: int) -> None:
    world = Items(300, teacher=0.7, trained=0.7, untrained=0.3, together=together)
    share = false_alarms(world, 200 if together > 1 else 1000)
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (200 if together > 1 else 1000))


def test_a_row_counts_what_misses() -> None:
    found: list[Estimate | Refused] = [
        Estimate(value=1.0, low=low, high=low + 2, n=5) for low in (0.0, 0.5, 2.0, -3.0)
    ]
    found.append(Refused(reason="nothing"))
    seen = row("mean", "world", 1.0, found)
    assert seen == Row("mean", "world", sets=5, refused=1, below=1, above=1, width=2.0)
    assert seen.coverage == 0.5
    assert "50.0 % **!**" in described([seen], {"equals": 0.04}, 5, 1.0)


def test_the_worlds_are_what_they_say() -> None:
    items = Items(60_000, teacher=0.75, trained=0.6, untrained=0.4, together=6)
    drawn = items.draw(np.random.default_rng(0))
    for name, share in items.shares.items():
        assert drawn[name].mean() == pytest.approx(share, abs=0.01)
    by_passage = drawn["teacher"].reshape(-1, 6).mean(axis=1)
    assert by_passage.var() > 1.5 * 0.75 * 0.25 / 6
    assert np.corrcoef(drawn["teacher"], drawn["trained"])[0, 1] > 0.3
