"""Intervals of shares of items, in closed form and at their ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.proportion import paired_difference, wilson

Z = 1.959964


@given(n=st.integers(1, 3000), share=st.floats(0, 1))
def test_wilson_holds_every_share_that_a_test_would_not_reject(n: int, share: float) -> None:
    right = round(share * n)
    low, high = wilson(right, n)
    assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
    for end in (end for end in (low, high) if 1e-12 < end < 1 - 1e-12):
        off = abs(right / n - end) / math.sqrt(end * (1 - end) / n)
        assert off == pytest.approx(Z, rel=1e-4)


def test_all_right_and_all_wrong_are_not_certain() -> None:
    assert wilson(100, 100) == pytest.approx((1 / (1 + Z**2 / 100), 1.0))
    assert wilson(0, 100) == pytest.approx((0.0, Z**2 / 100 / (1 + Z**2 / 100)))


def test_a_paired_difference_is_walds_when_there_are_many_items() -> None:
    low, high = paired_difference(9_000, 6_000, 100_000)
    half = Z * math.sqrt((0.15 - 0.03**2) / 100_000)
    assert (low, high) == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)


def test_no_differing_answer_leaves_room_for_one() -> None:
    low, high = paired_difference(0, 0, 100)
    assert -low == high == pytest.approx(Z * math.sqrt(2 / 102 / 102))


def test_order_is_a_sign() -> None:
    low, high = paired_difference(3, 11, 50)
    assert paired_difference(11, 3, 50) == pytest.approx((-high, -low))
    assert paired_difference(1, 0, 1)[1] <= 1.0
