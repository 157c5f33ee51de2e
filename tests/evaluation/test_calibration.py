from __future__ import annotations

import numpy as np
import pytest

from nexus.evaluation.calibration import BINS, binned, calibration, items


def perfect(n: int, seed: int) -> np.ndarray:
    """Sums of independent positions, any confidence alike, right just as often."""
    random = np.random.default_rng(seed)
    confidence = random.random(n)
    return items(confidence, (random.random(n) < confidence).astype(float))


def test_constant_confidence_is_off_by_the_difference() -> None:
    correct = np.array([1.0] * 300 + [0.0] * 700)
    found = calibration(items(np.full(1000, 0.9), correct))
    assert found.uncorrected == pytest.approx(0.6, abs=1e-12)
    assert found.ece.value == pytest.approx(0.6, abs=1e-3)
    assert found.ece.low is not None and found.ece.high is not None
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.ece.low == pytest.approx(0.6 - half, abs=0.006)
    assert found.ece.high == pytest.approx(0.6 + half, abs=0.006)
    (only,) = found.bins
    assert (only.confidence, only.accuracy, only.share) == pytest.approx((0.9, 0.3, 1.0))


@pytest.mark.parametrize(("n", "published", "sets"), [(200, 0.088, 40), (1000, 0.037, 20)])
def test_a_perfect_model_scores_the_bias_and_nothing_is_left(
    n: int, published: float, sets: int
) -> None:
    """E Σ |N(0, c (1 - c) / n)| over 15 bins of uniform confidence is 1.21 / sqrt(n)."""
    found = [calibration(perfect(n, seed)) for seed in range(sets)]
    assert np.mean([one.uncorrected for one in found]) == pytest.approx(published, rel=0.12)
    assert np.mean([one.bias for one in found]) == pytest.approx(1.214 / np.sqrt(n), rel=0.1)
    assert np.mean([one.ece.value for one in found]) < 0.45 * published
    assert np.mean([one.ece.low == 0 for one in found]) >= 0.8


def test_bins_are_of_equal_width_and_the_ends_have_a_place() -> None:
    sums = binned(np.array([0.0, 1 / 15 + 1e-9, 0.5, 1.0, 1.0 + 1e-7]), np.ones(5))
    assert sums.shape == (BINS, 3)
    assert sums[:, 0].nonzero()[0].tolist() == [0, 1, 7, 14]
    assert sums[14].tolist() == pytest.approx([2, 2, 2])


def test_documents_that_stand_together_are_less_certain() -> None:
    """The same positions, as one document each or as many: equal errors, wider intervals."""
    random = np.random.default_rng(0)
    right = np.repeat(random.random(40) < 0.5, 25).astype(float)
    alone = items(np.full(1000, 0.9), right)
    together = alone.reshape(40, 25, BINS, 3).sum(axis=1)
    one, other = calibration(alone).ece, calibration(together).ece
    assert one.value == pytest.approx(other.value, abs=0.01)
    assert one.low is not None and one.high is not None
    assert other.low is not None and other.high is not None
    assert other.high - other.low > 3 * (one.high - one.low)


def test_one_document_has_no_interval() -> None:
    found = calibration(perfect(500, 0).sum(axis=0, keepdims=True))
    assert found.ece.low is None and found.ece.high is None
    assert found.bias == pytest.approx(1.214 / np.sqrt(500), rel=0.1)


def test_errors_that_point_one_way_are_no_more_certain_than_their_sum() -> None:
    """Documents as a whole are over- or underconfident, which no splitting into bins averages out.

    Leave out the second shape in `_shapes`, and the interval is a fifth narrower.
    """
    random = np.random.default_rng(7)
    sums = []
    for _ in range(40):
        confidence = random.random(200)
        right = confidence - 0.1 + random.normal(0, 0.12)
        sums.append(binned(confidence, (random.random(200) < right.clip(0, 1)).astype(float)))
    found = calibration(np.stack(sums)).ece
    means = [(of[:, 1] - of[:, 2]).sum() / 200 for of in sums]
    half = 1.96 * np.std(means, ddof=1) / np.sqrt(40)
    assert found.high is not None
    assert found.high >= np.mean(means) + 0.98 * half


def test_the_interval_holds_its_own_value() -> None:
    for seed in range(10):
        for sums in (perfect(60, seed), perfect(8, seed)):
            found = calibration(sums).ece
            assert found.low is not None and found.high is not None
            assert 0 <= found.low <= found.value <= found.high


def test_gaps_that_never_vary_have_no_width() -> None:
    document = binned(np.array([0.9, 0.9, 0.2]), np.array([1.0, 0.0, 0.0]))
    found = calibration(np.stack([document] * 12)).ece
    expected = (abs(1.8 - 1) + 0.2) / 3
    assert (found.low, found.value, found.high) == pytest.approx((expected,) * 3)
