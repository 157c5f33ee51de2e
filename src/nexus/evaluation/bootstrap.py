"""Bootstrap over documents: intervals for ratios of sums, paired by construction.

Tokens of one document are not independent, so whole documents are drawn, with replacement, and
every statistic is computed from sums over the drawn documents. Statistics taken from one
`Bootstrap` see the same draws, which is what makes their differences paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.results import Estimate, Unit

RESAMPLES = 2000
_CELLS = 4_000_000
"""Draw counts held at once: 32 MB."""

FEW = 10
"""Below it resamples of a single document are not rare, whose spread is nothing."""
_STEP = 1e-5
_ROUNDING = 1e-8

Statistic = Callable[[ndarray], ndarray]
"""From sums `[m, k]` to values `[m]`: applied to the data and to every resample alike."""


@dataclass(frozen=True)
class Bootstrap:
    """Column sums of a table of documents, as observed and under resampling of its rows."""

    observed: Float[ndarray, "1 k"]
    replicates: Float[ndarray, "resamples k"]
    products: Float[ndarray, "1+resamples k*k"]
    """Sums of the products of every two columns, first as observed: what errors come from."""
    n: int

    @classmethod
    def of(
        cls, columns: Float[ndarray, "n k"], resamples: int = RESAMPLES, seed: int = 0
    ) -> Bootstrap:
        """Resample the rows of `columns` (one row a document, one column a total)."""
        n, k = columns.shape
        products = (columns[:, :, None] * columns[:, None, :]).reshape(n, k * k)
        both = np.concatenate([columns, products], axis=1)
        sums = np.concatenate(
            [
                both.sum(axis=0, keepdims=True),
                *(drawn @ both for drawn in draws(n, resamples, seed)),
            ]
        )
        return cls(sums[:1, :k], sums[1:, :k], sums[:, k:], n)

    def interval(self, statistic: Statistic, level: float = 0.95) -> tuple[float, float] | None:
        """The symmetric bootstrap-t interval (Hall, 1988), or nothing at n = 1.

        Value ± c errors, where the error is the linearised one and c the `level` quantile of
        |resampled value - value| / resampled error. Documents are few, skewed and of very unequal
        lengths: plain, expanded and accelerated percentiles then cover 88 to 93 % where they say
        95, and this one what it says (benchmarks/coverage.py). Of fewer than ten documents c is
        Student's, and the interval a rough one.
        """
        if self.n < 2:
            return None
        values = statistic(np.concatenate([self.observed, self.replicates]))
        errors = self._errors(statistic, values)
        if errors[0] == 0:
            return float(values[0]), float(values[0])
        reach = student_quantile(0.5 + level / 2, self.n - 1)
        if self.n >= FEW:
            off = np.abs(values[1:] - values[0])
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = np.where(off <= _ROUNDING * abs(values[0]), 0.0, off / errors[1:])
            # Where hardly any document differs, many resamples have no spread to divide by.
            least, most = 0.0, student_quantile(0.5 + level / 2, 1)
            reach = float(np.quantile(np.clip(ratios, least, most), level))
        return float(values[0] - reach * errors[0]), float(values[0] + reach * errors[0])

    def estimate(
        self,
        statistic: Statistic,
        unit: Unit = "",
        through: Callable[[float], float] = float,
    ) -> Estimate:
        """The statistic of the data with its 95 % interval.

        Args:
            statistic: from sums to a value.
            unit: of what is reported.
            through: an increasing function that value and interval are taken through: exp for a
                perplexity, which is skewed where the loss is not.
        """
        low, high = self.interval(statistic) or (None, None)
        return Estimate(
            value=float(through(float(statistic(self.observed)[0]))),
            low=None if low is None else float(through(low)),
            high=None if high is None else float(through(high)),
            n=self.n,
            unit=unit,
        )

    def _errors(self, statistic: Statistic, values: Float[ndarray, " m"]) -> Float[ndarray, " m"]:
        """Standard errors by the delta method, of the data and of every resample."""
        sums = np.concatenate([self.observed, self.replicates])
        k = sums.shape[1]
        products = self.products.reshape(-1, k, k)
        slopes = np.empty_like(sums)
        for column in range(k):
            size = np.maximum(np.abs(sums[:, column]), np.sqrt(products[:, column, column]))
            step = _STEP * np.where(size > 0, size, 1.0)
            above, below = sums.copy(), sums.copy()
            above[:, column] += step
            below[:, column] -= step
            slopes[:, column] = (statistic(above) - statistic(below)) / (2 * step)
        spread = np.einsum("mi,mij,mj->m", slopes, products, slopes)
        spread -= np.einsum("mi,mi->m", slopes, sums) ** 2 / self.n
        errors = np.sqrt(np.maximum(spread, 0.0) * self.n / (self.n - 1))
        return np.where(errors <= _ROUNDING * np.abs(values), 0.0, errors)


def draws(n: int, resamples: int, seed: int) -> Iterator[Float[ndarray, "some n"]]:
    """How often each row is in each resample; the same for every table of n rows."""
    if n * resamples <= _CELLS:
        yield _kept_draws(n, resamples, seed)
        return
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n)
    for start in range(0, resamples, chunk):
        yield _drawn(random, min(chunk, resamples - start), n)


@lru_cache(maxsize=2)
def _kept_draws(n: int, resamples: int, seed: int) -> Float[ndarray, "resamples n"]:
    return _drawn(np.random.default_rng(seed), resamples, n)


def _drawn(random: np.random.Generator, rows: int, n: int) -> Float[ndarray, "rows n"]:
    drawn = random.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


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
