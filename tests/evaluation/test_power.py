"""What a comparison could have seen."""

from __future__ import annotations

import numpy as np
import pytest

from nexus.evaluation.mcnemar import mcnemar
from nexus.evaluation.power import detectable_difference


@pytest.mark.parametrize(("items", "points"), [(200, 7.7), (500, 4.85), (1000, 3.4), (2000, 2.4)])
def test_with_fifteen_discordant_items_in_a_hundred(items: int, points: float) -> None:
    assert 100 * detectable_difference(items) == pytest.approx(points, abs=0.05)


def test_a_difference_of_that_size_is_found_four_times_out_of_five() -> None:
    random, items = np.random.default_rng(0), 1000
    apart = detectable_difference(items)
    gained, lost, _ = random.multinomial(
        items, [(0.15 + apart) / 2, (0.15 - apart) / 2, 0.85], size=2000
    ).T
    found = [mcnemar(int(g), int(b)) < 0.05 for g, b in zip(gained, lost, strict=True)]
    assert 0.76 < np.mean(found) < 0.84


def test_fewer_differing_items_show_smaller_differences() -> None:
    assert detectable_difference(500, discordant=0.05) < detectable_difference(500)
    assert detectable_difference(500, power=0.9) > detectable_difference(500)
