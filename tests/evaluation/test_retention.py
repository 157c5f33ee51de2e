from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.retention import (
    Totals,
    difference,
    gap_closed,
    perplexity_ratio,
    retention,
)
from nexus.results import Estimate, Refused

TOKENS = np.array([10.0, 20.0, 30.0, 40.0])


def level(value: float) -> Totals:
    """A measure that is `value` a token in every document."""
    return Totals(value * TOKENS, TOKENS)


def scattered(value: float, seed: int, spread: float = 0.3) -> Totals:
    tokens = np.full(80, 25.0)
    noise = np.random.default_rng(seed).normal(scale=spread, size=80)
    return Totals((value + noise) * tokens, tokens)


def value(of: Estimate | Refused) -> float:
    assert isinstance(of, Estimate), of
    return of.value


def test_retention_in_closed_form() -> None:
    assert value(retention(level(0.6), level(0.8))) == pytest.approx(0.75)
    assert value(retention(level(0.6), level(0.8), chance=0.25)) == pytest.approx(0.35 / 0.55)
    assert value(retention(level(0.9), level(0.8))) == pytest.approx(1.125)


def test_a_teacher_at_chance_has_nothing_to_retain() -> None:
    refused = retention(level(0.3), level(0.25), chance=0.25)
    assert isinstance(refused, Refused)
    assert "not clearly above chance (0.25) on 4 documents" in refused.reason


@given(untrained=st.floats(3.0, 20.0), trained=st.floats(0.0, 25.0), teacher=st.floats(0.0, 2.9))
def test_gap_closed_in_closed_form(untrained: float, trained: float, teacher: float) -> None:
    share = value(gap_closed(level(untrained), level(trained), level(teacher), resamples=20))
    assert share == pytest.approx((untrained - trained) / (untrained - teacher))


def test_gap_closed_at_its_landmarks() -> None:
    before, goal = level(4.0), level(1.0)
    assert value(gap_closed(before, before, goal)) == 0.0
    assert value(gap_closed(before, goal, goal)) == 1.0
    assert value(gap_closed(before, level(5.5), goal)) == -0.5


@pytest.mark.parametrize("untrained", [0.9, 1.0, 1.01])
def test_no_gap_is_refused_rather_than_divided_by(untrained: float) -> None:
    refused = gap_closed(scattered(untrained, 0), scattered(0.5, 1), scattered(1.0, 2))
    assert isinstance(refused, Refused)
    assert "not clearly above the teacher's" in refused.reason


def test_one_document_says_nothing() -> None:
    one = [Totals(np.array([loss]), np.array([1.0])) for loss in (4.0, 2.0, 1.0)]
    refused = gap_closed(*one)
    assert isinstance(refused, Refused)
    assert "on 1 document:" in refused.reason


def test_pairing_makes_a_difference_sharper_than_its_parts() -> None:
    """Hard documents are hard for both: what is left is the 0.1 that differs everywhere."""
    first = scattered(2.0, 5, spread=1.0)
    second = Totals(first.total - 0.1 * first.count, first.count)
    paired = difference(first, second, unit="nats")
    assert paired.value == pytest.approx(0.1)
    assert paired.low == pytest.approx(0.1) == paired.high
    unpaired = difference(first, scattered(1.9, 6, spread=1.0))
    assert unpaired.high is not None and unpaired.low is not None
    assert unpaired.high - unpaired.low > 0.3


def test_a_difference_of_nothing_contains_zero() -> None:
    found = difference(scattered(2.0, 7), scattered(2.0, 8))
    assert found.low is not None and found.high is not None
    assert found.low < 0 < found.high


def test_perplexity_ratio_is_the_ratio_of_perplexities() -> None:
    ratio = perplexity_ratio(level(math.log(30.0)), level(math.log(20.0)))
    assert ratio.value == pytest.approx(1.5)
    assert ratio.unit == "×"


def test_unpaired_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="same documents"):
        retention(level(1.0), scattered(1.0, 0))
