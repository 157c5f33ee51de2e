"""When a teacher counts as better."""

from __future__ import annotations

import pytest

from nexus.checking.teacher import judged
from nexus.results import Estimate


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.1, 0.3, "proved"),
        (-0.1, 0.3, "doubtful"),
        (-0.3, -0.1, "failed"),
        (0.0, 0.0, "failed"),
        (None, None, "doubtful"),
    ],
)
def test_the_interval_decides(low: float | None, high: float | None, outcome: str) -> None:
    value = 0.2 if low is None or high is None else (low + high) / 2
    proof = judged(Estimate(value=value, low=low, high=high, n=9, unit="nats"), 100)
    assert ("teacher: previous" in proof.remedy) == (low == high == 0.0)
    assert proof.outcome == outcome and bool(proof.remedy) == (outcome != "proved")
