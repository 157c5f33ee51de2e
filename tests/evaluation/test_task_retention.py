"""What is left of the teacher on a task."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nexus.evaluation.proportion import wilson
from nexus.evaluation.task_retention import task_retention, totals
from nexus.results import Estimate, Refused


def at(*ranges: tuple[int, int], of: int = 400) -> np.ndarray:
    """Right on the items of these ranges."""
    values = np.zeros(of)
    for start, stop in ranges:
        values[start:stop] = 1
    return values


def estimated(found: Estimate | Refused) -> tuple[float, float, float]:
    assert isinstance(found, Estimate), found
    assert found.low is not None and found.high is not None
    return found.low, found.value, found.high


def test_ratios_of_means_in_closed_form() -> None:
    models = {"teacher": at((0, 300)), "trained": at((50, 250)), "untrained": at((0, 100))}
    found = task_retention(models, chance=0.25)
    assert estimated(found["raw"])[1] == pytest.approx(200 / 300)
    assert estimated(found["above_chance"])[1] == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))
    assert estimated(found["gap_closed"])[1] == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))


def test_the_interval_is_that_of_the_delta_method_when_there_are_many_items() -> None:
    n, random = 40_000, np.random.default_rng(0)
    teacher = (random.random(n) < 0.8).astype(float)
    trained = np.where(random.random(n) < 0.7, teacher, random.random(n) < 0.5).astype(float)
    low, value, high = estimated(
        task_retention({"teacher": teacher, "trained": trained}, chance=0.25)["above_chance"]
    )
    off = (trained - 0.25) - value * (teacher - 0.25)
    error = off.std() / (teacher.mean() - 0.25) / math.sqrt(n)
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=2e-4)


def test_items_and_clusters_of_one_item_agree() -> None:
    random = np.random.default_rng(1)
    models = {
        name: (random.random(300) < share).astype(float)
        for name, share in (("teacher", 0.8), ("trained", 0.65), ("untrained", 0.3))
    }
    items = task_retention(models, chance=0.25)
    clusters = task_retention(models, tuple(map(str, range(300))), chance=0.25)
    for name, found in items.items():
        assert estimated(found) == pytest.approx(estimated(clusters[name]), rel=0.05)


def test_what_is_not_there_cannot_be_retained_or_closed() -> None:
    models = {"teacher": at((0, 110)), "trained": at((0, 100)), "untrained": at((300, 400))}
    for clusters in (None, tuple(map(str, range(400)))):
        found = task_retention(models, clusters, chance=0.25)
        for name in ("raw", "above_chance"):
            refused = found[name]
            assert isinstance(refused, Refused)
            assert "the teacher's 0.275 is not clearly above chance (0.25) on 400 items" in (
                refused.reason
            )
        closed = found["gap_closed"]
        assert isinstance(closed, Refused)
        assert "0.275 is not clearly above the untrained student's 0.25" in closed.reason


def test_a_worse_student_has_a_negative_share() -> None:
    models = {"teacher": at((0, 360)), "trained": at((0, 40)), "untrained": at((0, 100))}
    found = task_retention(models, chance=0.25)
    assert estimated(found["above_chance"])[2] < 0
    assert estimated(found["gap_closed"])[2] < 0


def test_sums_by_cluster() -> None:
    found = totals(np.array([1.0, 0.0, 1.0, 1.0]), ("b", "a", "b", "a"))
    assert (found.total.tolist(), found.count.tolist()) == ([1.0, 2.0], [2.0, 2.0])
    assert totals(np.array([1.0, 0.0]), None).count.tolist() == [1.0, 1.0]


def test_a_share_is_given_only_of_a_teacher_whose_interval_lies_above_chance() -> None:
    """Also where guessing is mostly right."""
    trained, given = at((0, 250)), set()
    for right, chance in [(n, 0.6) for n in range(240, 280)] + [(n, 0.9) for n in range(360, 390)]:
        found = task_retention({"teacher": at((0, right)), "trained": trained}, chance=chance)
        above = wilson(right, 400)[0] > chance
        assert isinstance(found["raw"], Estimate) <= above
        assert isinstance(found["above_chance"], Estimate) <= above
        given.add(isinstance(found["raw"], Estimate))
    assert given == {True, False}
