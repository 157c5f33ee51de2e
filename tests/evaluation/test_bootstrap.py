from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from nexus.evaluation.bootstrap import Bootstrap, student_quantile


def ratio(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[:, 0] / sums[:, 1])


@pytest.mark.parametrize("documents", [12, 60])
def test_the_interval_covers_the_truth_in_95_of_100_samples(documents: int) -> None:
    """Documents of unequal length: tokens' values share a document's level, so they cluster."""
    random = np.random.default_rng(0)
    trials, truth, covered = 400, 2.0, 0
    for trial in range(trials):
        tokens = random.integers(20, 60, size=documents).astype(float)
        totals = tokens * (truth + random.normal(size=documents))
        found = Bootstrap.of(np.stack([totals, tokens], 1), 500, trial).interval(ratio)
        assert found is not None
        covered += found[0] <= truth <= found[1]
    spread = math.sqrt(0.95 * 0.05 / trials)
    assert abs(covered / trials - 0.95) < 3 * spread + 0.01


def test_the_interval_agrees_with_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    estimate = Bootstrap.of(np.stack([values, np.ones(400)], 1), 4000).estimate(ratio, "nats")
    error = values.std(ddof=1) / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - 1.966 * error, abs=0.12 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.966 * error, abs=0.12 * error)
    assert (estimate.n, estimate.unit) == (400, "nats")


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    columns = np.array([[10.0, 1.0], [0.0, 9.0]])
    assert Bootstrap.of(columns, 10).estimate(ratio).value == 1.0


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    columns = np.random.default_rng(2).random((30, 2)) + 1
    first, again, other = (Bootstrap.of(columns, 200, seed).interval(ratio) for seed in (3, 3, 4))
    assert first == again != other


def test_documents_that_agree_leave_nothing_uncertain() -> None:
    estimate = Bootstrap.of(np.full((20, 2), 7.0), 100).estimate(ratio)
    assert (estimate.low, estimate.value, estimate.high) == (1.0, 1.0, 1.0)


def test_one_document_has_no_interval() -> None:
    estimate = Bootstrap.of(np.array([[3.0, 2.0]]), 10).estimate(ratio)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (1.5, None, None, 1)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (60, 2.0003)]
)
def test_students_quantile_matches_the_printed_table(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=0.01)


def test_students_quantile_becomes_the_normal_one() -> None:
    assert student_quantile(0.975, 10**6) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-5)
