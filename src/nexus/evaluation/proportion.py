"""Intervals for shares of items, which also hold where all are right, or all wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

LEVEL = 0.95


def wilson(right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion: every share that a test would not reject."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(gained: int, lost: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of (gained - lost) / n for two models on the same n items.

    Wald's, with one item more that only the first gets right, and one that only the second does
    (Bonett and Price, Psychological Methods 2012): where no two answers differed, the next two may.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    first, second = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = first - second
    half = z * math.sqrt((first + second - centre**2) / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


def paired_ratio(
    right: Float[ndarray, "n models"],
    over: Sequence[int],
    under: Sequence[int],
    chance: float = 0.0,
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """Interval of one combination of accuracies over another, each less what guessing scores.

    Fieller's, which holds every ratio that a test would not reject. For each model an item is added
    that it alone gets right, as in `paired_difference`: models that never differed may differ next.

    Args:
        right: 1 where the model in that column got the item in that row right, else 0.
        over: of each model, how often its accuracy is in the numerator.
        under: likewise in the denominator.
        chance: taken off every accuracy.
        level: how often the interval should hold the truth.

    Returns:
        The interval, or nothing where the denominator itself is not clearly above 0: no ratio could
        be excluded then.
    """
    rows = np.concatenate([right, np.eye(right.shape[1])]) - chance
    parts = np.stack([rows @ np.asarray(over), rows @ np.asarray(under)])
    (top, bottom), z = parts.mean(axis=1).tolist(), NormalDist().inv_cdf(0.5 + level / 2)
    spread = z**2 * np.cov(parts) / len(rows)
    squared = bottom**2 - float(spread[1, 1])
    if bottom <= 0 or squared <= 0:
        return None
    middle = (top * bottom - float(spread[0, 1])) / squared
    half = math.sqrt(max(0.0, middle**2 - (top**2 - float(spread[0, 0])) / squared))
    return middle - half, middle + half
