"""Whether two models differ on the same items, or may have had different luck."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

FLIPS = 10_000
_CELLS = 4_000_000
"""Signs held at once."""


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p-value: min(1, 2 P(Binomial(gained + lost, 1/2) ≤ the smaller)).

    Items on which both models agree say nothing about their difference and do not count.

    Args:
        gained: items that only the first model got right.
        lost: items that only the second one got right.
    """
    n, smaller = gained + lost, min(gained, lost)
    log_term = math.lgamma(n + 1) - math.lgamma(smaller + 1) - math.lgamma(n - smaller + 1)
    log_term -= n * math.log(2)
    tail, term = 0.0, 1.0
    for successes in range(smaller, -1, -1):
        tail += term
        if term < 1e-18 * tail:
            break
        term *= successes / (n - successes + 1)
    return min(1.0, 2 * math.exp(log_term) * tail)


def paired_test(differences: Float[ndarray, " n"], *, seed: int = 0) -> float:
    """Two-sided p-value of "the mean of `differences` is 0 and each is as likely of either sign".

    Signs are flipped at random and the sum compared with the observed one. Where every difference
    is -1, 0 or 1 this is McNemar's test, and exact; else `FLIPS` draws are made, and the p-value
    can be no smaller than 1 / (FLIPS + 1).
    """
    moved = differences[differences != 0]
    if np.all(np.abs(moved) == 1):
        return mcnemar(int(np.sum(moved > 0)), int(np.sum(moved < 0)))
    random = np.random.default_rng(seed)
    observed = abs(moved.sum()) * (1 - 1e-12)  # equal sums may differ by their rounding
    chunk = max(1, _CELLS // len(moved))
    as_extreme = 0
    for start in range(0, FLIPS, chunk):
        signs = random.integers(0, 2, size=(min(chunk, FLIPS - start), len(moved))) * 2.0 - 1.0
        as_extreme += int(np.count_nonzero(np.abs(signs @ moved) >= observed))
    return (1 + as_extreme) / (1 + FLIPS)
