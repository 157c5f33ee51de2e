"""Bootstrap over documents: intervals for ratios of sums, paired by construction.

Tokens of one document are not independent, so whole documents are drawn, with replacement, and
every statistic is computed from sums over the drawn documents. Statistics taken from one
`Bootstrap` see the same draws, which is what makes their differences paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.results import Estimate, Unit

RESAMPLES = 2000
_CELLS = 4_000_000
"""Draw counts held at once: 32 MB."""

Statistic = Callable[[ndarray], ndarray]
"""From sums `[m, k]` to values `[m]`: applied to the data and to every resample alike."""


@dataclass(frozen=True)
class Bootstrap:
    """Column sums of a table of documents, as observed and under resampling of its rows."""

    observed: Float[ndarray, "1 k"]
    replicates: Float[ndarray, "resamples k"]
    n: int

    @classmethod
    def of(
        cls, columns: Float[ndarray, "n k"], resamples: int = RESAMPLES, seed: int = 0
    ) -> Bootstrap:
        """Resample the rows of `columns` (one row a document, one column a total)."""
        n = len(columns)
        random = np.random.default_rng(seed)
        chunk = max(1, _CELLS // n)
        parts = []
        for start in range(0, resamples, chunk):
            size = min(chunk, resamples - start)
            drawn = random.multinomial(n, np.full(n, 1.0 / n), size=size)
            parts.append(drawn @ columns)
        return cls(columns.sum(axis=0, keepdims=True), np.concatenate(parts), n)

    def interval(self, statistic: Statistic, level: float = 0.95) -> tuple[float, float] | None:
        """The expanded percentile interval (Hesterberg, arXiv:1411.5279), or nothing at n = 1.

        Plain percentiles are too narrow for few documents, by sqrt((n-1)/n) and by using the normal
        quantile where Student's is due. The percentiles are moved outwards to make up for both.
        """
        if self.n < 2:
            return None
        quantile = math.sqrt(self.n / (self.n - 1)) * student_quantile(0.5 + level / 2, self.n - 1)
        outside = NormalDist().cdf(-quantile)
        low, high = np.quantile(statistic(self.replicates), [outside, 1 - outside])
        return float(low), float(high)

    def estimate(self, statistic: Statistic, unit: Unit = "") -> Estimate:
        """The statistic of the data with its 95 % interval."""
        low, high = self.interval(statistic) or (None, None)
        value = float(statistic(self.observed)[0])
        return Estimate(value=value, low=low, high=high, n=self.n, unit=unit)


def student_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile: exact for 1 and 2 degrees of freedom, within 1 % beyond.

    The expansion is 26.7.5 of Abramowitz and Stegun.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        centred = 2 * probability - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
