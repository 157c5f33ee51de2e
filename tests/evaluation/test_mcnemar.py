"""McNemar's test and what it is a case of."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.mcnemar import mcnemar, paired_test


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(12, 30, 0.0079), (40, 60, 0.0569), (1, 0, 1.0), (0, 6, 1 / 32)],
)
def test_printed_values(gained: int, lost: int, expected: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=5e-5)


@given(gained=st.integers(0, 300), lost=st.integers(0, 300))
def test_it_is_the_binomial_tail_in_whole_numbers(gained: int, lost: int) -> None:
    n = gained + lost
    tail = Fraction(2 * sum(comb(n, k) for k in range(min(gained, lost) + 1)), 2**n)
    assert mcnemar(gained, lost) == pytest.approx(float(min(Fraction(1), tail)), rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_no_discordant_item_says_nothing() -> None:
    assert mcnemar(0, 0) == 1.0
    assert paired_test(np.zeros(5)) == 1.0


def test_large_counts_are_those_of_the_normal_distribution() -> None:
    assert mcnemar(500_000, 502_000) == pytest.approx(0.0459, abs=2e-4)  # z = 1.999 / 1.001
    assert mcnemar(10_000, 0) == 0.0


def test_right_and_wrong_are_tested_exactly() -> None:
    differences = np.array([1.0] * 30 + [-1.0] * 12 + [0.0] * 100)
    assert paired_test(differences) == mcnemar(30, 12)


def test_other_scores_are_tested_by_flipping_all_signs() -> None:
    """All 2^10 ways of giving signs, against 10,000 drawn ones."""
    differences = np.random.default_rng(3).normal(0.3, 0.5, size=10)
    ways = np.array(list(product([-1, 1], repeat=10)))
    exact = np.mean(np.abs(ways @ differences) >= abs(differences.sum()) - 1e-12)
    assert paired_test(differences) == pytest.approx(float(exact), abs=0.015)
    assert paired_test(differences) == paired_test(differences)
    assert paired_test(-differences) == paired_test(differences)
