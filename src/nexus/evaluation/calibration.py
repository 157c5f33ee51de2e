"""Whether a model's confidence is how often it is right, with an interval that covers.

The expected calibration error (arXiv:1706.04599) is Σ |confidence - accuracy| over bins, each
weighted by its share of the positions. Every bin's difference is noisy, and its absolute value is
not negative, so that a perfectly calibrated model scores the more the less is measured: 0.088 on
200 positions, 0.037 on 1,000, 0.012 on 10,000 (15 bins, confidence anywhere in [0, 1]). Drawing
documents with replacement adds the same noise once more, so that its percentiles lie too high.

The error is therefore what makes the observed sum the median one, and its interval all errors that
would not make the observed sum an extreme one. What the sum is under a given error depends on how
the error is spread over the bins, which is not known. Two shapes are tried, and an error is refused
only where both refuse it: the observed differences less their noise, and one and the same
difference everywhere. The second is the least favourable where documents as a whole are over- or
underconfident, since the errors of all bins then point one way. The noise is that of documents
drawn with replacement, by standard errors as in `nexus.evaluation.bootstrap`: documents are few and
of very unequal lengths, and intervals from the first shape and normal noise cover 85 to 92 %
(benchmarks/coverage.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.evaluation.bootstrap import FEW, draws, student_quantile
from nexus.results import Bin, Calibration, Estimate

BINS = 15
SUMMED = ("count", "confidence", "correct")
"""What is summed by document and bin."""

_RESAMPLES = 1000
_ERRORS = 24
"""How many errors are tried."""


def binned(
    confidence: Float[ndarray, " n"], correct: Float[ndarray, " n"]
) -> Float[ndarray, "bins summed"]:
    """The sums of one document, in bins of equal width.

    Args:
        confidence: the probability of the most likely token (or answer) at each position.
        correct: 1 where that one is right, else 0.
    """
    # A confidence that is no number is refused later, by name; here it only needs a place.
    at = np.clip(np.nan_to_num(confidence) * BINS, 0, BINS - 1).astype(int)
    columns = (np.ones(len(at)), confidence, correct)
    return np.stack([np.bincount(at, column, minlength=BINS) for column in columns], axis=1)


def items(
    confidence: Float[ndarray, " n"], correct: Float[ndarray, " n"]
) -> Float[ndarray, "n bins summed"]:
    """The sums of independent items, each a document of its own, for `calibration`."""
    pairs = zip(np.asarray(confidence), np.asarray(correct), strict=True)
    return np.stack([binned(np.array([c]), np.array([r])) for c, r in pairs])


def calibration(sums: Float[ndarray, "documents bins summed"], *, seed: int = 0) -> Calibration:
    """The calibration error with its bias and interval.

    Args:
        sums: of each document, as `binned` gives them. Whole documents are what was drawn.
        seed: of the noise that the distribution of the sum is computed with.
    """
    count, confidence, correct = np.moveaxis(sums.sum(axis=0), 1, 0)
    gaps = (confidence - correct) / count.sum()
    plain, n = float(np.abs(gaps).sum()), len(sums)
    bins = tuple(
        Bin(confidence=c / m, accuracy=a / m, share=m / count.sum())
        for m, c, a in zip(count, confidence, correct, strict=True)
        if m
    )
    if n < 2:
        alone = Estimate(value=plain, n=n, unit="share")
        bias = _independent_bias(count, confidence)
        return Calibration(ece=alone, uncorrected=plain, bias=bias, bins=bins)
    variances = _covariance(sums, gaps).diagonal()
    centres = np.divide(confidence, count, out=np.zeros_like(count), where=count > 0)
    shapes = _shapes(gaps, variances, count / count.sum(), centres)
    value, low, high = _unfolded(plain, shapes, [_noise(sums, gaps, s, seed) for s in shapes])
    return Calibration(
        ece=Estimate(value=value, low=low, high=high, n=n, unit="share"),
        uncorrected=plain,
        bias=math.sqrt(2 / math.pi) * float(np.sqrt(variances).sum()),
        bins=bins,
    )


def _influence(
    sums: Float[ndarray, "documents bins summed"], gaps: Float[ndarray, " bins"]
) -> Float[ndarray, "documents bins"]:
    """What each document adds to the error of each gap, to first order, times all tokens."""
    count, confidence, correct = np.moveaxis(sums, 2, 0)
    influence: ndarray = confidence - correct - gaps * count.sum(axis=1, keepdims=True)
    return influence


def _covariance(
    sums: Float[ndarray, "documents bins summed"], gaps: Float[ndarray, " bins"]
) -> Float[ndarray, "bins bins"]:
    """Of `gaps`, over documents."""
    n, influence = len(sums), _influence(sums, gaps) / sums[:, :, 0].sum()
    covariance: ndarray = influence.T @ influence * n / (n - 1)
    return covariance


def _shapes(
    gaps: Float[ndarray, " bins"],
    variances: Float[ndarray, " bins"],
    shares: Float[ndarray, " bins"],
    centres: Float[ndarray, " bins"],
) -> list[Float[ndarray, " bins"]]:
    """How an error of 1 may be spread over the bins, the likelier one first."""
    smoothed = _smoothed(gaps, variances, shares, centres)
    even = np.where(variances > 0, shares * (1 if gaps.sum() >= 0 else -1), gaps)
    lengths = ((shape, float(np.abs(shape).sum())) for shape in (smoothed, even))
    return [shape / length for shape, length in lengths if length > 0]


def _noise(
    sums: Float[ndarray, "documents bins summed"],
    gaps: Float[ndarray, " bins"],
    shape: Float[ndarray, " bins"],
    seed: int,
) -> Float[ndarray, "draws bins"]:
    """Draws of the sampling error of `gaps`, each with its negative: medians are then exact.

    A draw is scaled by how much larger the standard error of Σ ±gap is than it seemed in the draw,
    with the signs of `shape`. Of few documents it is normal, widened to Student's.
    """
    n, signs = len(sums), np.sign(shape)
    covariance = _covariance(sums, gaps)
    if n < FEW:
        values, vectors = np.linalg.eigh(covariance)
        half = np.random.default_rng(seed).standard_normal((_RESAMPLES, len(gaps)))
        half = half * np.sqrt(values.clip(0)) @ vectors.T
        half *= student_quantile(0.975, n - 1) / NormalDist().inv_cdf(0.975)
        return np.concatenate([half, -half])
    apart, tokens = sums[:, :, 1] - sums[:, :, 2], sums[:, :, 0].sum(axis=1, keepdims=True)
    along = apart @ signs[:, None]
    columns = np.concatenate([apart, tokens, along**2, along * tokens, tokens**2], axis=1)
    drawn = np.concatenate([some @ columns for some in draws(n, _RESAMPLES, seed)])
    total, squares, products, lengths = drawn[:, len(gaps) :].T
    errors = drawn[:, : len(gaps)] / total[:, None] - gaps
    sum_of = (errors + gaps) @ signs
    seemed = (squares - 2 * sum_of * products + sum_of**2 * lengths) / total**2 * n / (n - 1)
    real = float(signs @ covariance @ signs)
    # Where hardly any document differs, some resamples seem to have no error at all.
    most = student_quantile(0.975, 1) ** 2
    ratios = np.minimum(real / np.maximum(seemed, real / most), most) if real else 0 * seemed + 1
    half = errors * np.sqrt(ratios)[:, None]
    return np.concatenate([half, -half])


def _unfolded(
    observed: float,
    shapes: Sequence[Float[ndarray, " bins"]],
    noises: Sequence[Float[ndarray, "draws bins"]],
) -> tuple[float, float, float]:
    """The error whose median the observed Σ |gap| is, and its interval (Neyman's construction).

    An error is in the interval unless for every shape the observed sum is among the most extreme
    5 % of those that it would give. Near zero, where only too large a sum speaks against an error,
    all 5 % are there.
    """
    pairs = list(zip(shapes, noises, strict=True))
    # Σ |shape error + noise| is at most error + Σ |noise|, and at least error + Σ ±noise.
    below = max((np.quantile(np.abs(n).sum(axis=1), 0.99) for _, n in pairs), default=0.0)
    above = max((np.quantile(np.abs(n @ np.sign(s)), 0.99) for s, n in pairs), default=0.0)
    if below == 0:
        return observed, observed, observed
    errors = np.linspace(max(0.0, observed - below), observed + above, _ERRORS)
    ends: tuple[list[float], ...] = ([], [], [])
    for shape, noise in pairs:
        for found, quantile in zip(ends, _quantiles(errors, shape, noise), strict=True):
            found.append(float(np.interp(observed, np.maximum.accumulate(quantile), errors)))
    highs, values, lows = ends
    return values[0], min(*lows, values[0]), max(*highs, values[0])


def _quantiles(
    errors: Float[ndarray, " errors"],
    shape: Float[ndarray, " bins"],
    noise: Float[ndarray, "draws bins"],
) -> Float[ndarray, "3 errors"]:
    """Of the sum under each error: what it is seldom below, its median, what it is seldom above."""
    nothing = np.abs(noise).sum(axis=1)
    centre, width = nothing.mean(), nothing.std()
    found = np.zeros((3, len(errors)))
    for number, error in enumerate(errors):
        sums = np.abs(noise + shape * error).sum(axis=1)
        away = min(1.0, max(0.0, (sums.mean() - centre) / (2 * width)))
        found[:, number] = np.quantile(sums, [0.025 * away, 0.5, 0.95 + 0.025 * away])
        if not away:
            found[0, number] = 0.0
    return found


def _smoothed(
    gaps: Float[ndarray, " bins"],
    variances: Float[ndarray, " bins"],
    shares: Float[ndarray, " bins"],
    centres: Float[ndarray, " bins"],
) -> Float[ndarray, " bins"]:
    """What the bins' differences are likely to be, given each other.

    Miscalibration varies slowly with confidence, noise does not: each bin's difference a position
    is drawn towards a line through all of them, by as much as the bins scatter no more about the
    line than their noise alone would have them (James and Stein, 1961).
    """
    known = variances > 0
    weights = shares[known] / np.sqrt(variances[known])
    target = gaps[known] / np.sqrt(variances[known])
    features = np.stack([weights, weights * centres[known]], axis=1)
    fit = features @ np.linalg.lstsq(features, target, rcond=None)[0]
    scatter = float(((target - fit) ** 2).sum())
    freedom = len(target) - 2
    kept = max(0.0, 1 - (freedom - 2) / scatter) if scatter > 0 and freedom > 2 else 1.0
    smoothed = gaps.copy()
    smoothed[known] = (fit + kept * (target - fit)) * np.sqrt(variances[known])
    return smoothed


def _independent_bias(count: Float[ndarray, " bins"], confidence: Float[ndarray, " bins"]) -> float:
    """E Σ |N(0, σ²)| over bins where each position is right with its confidence, and alone."""
    mean = np.divide(confidence, count, out=np.zeros_like(count), where=count > 0)
    deviations = np.sqrt(count * mean * (1 - mean))
    return float(math.sqrt(2 / math.pi) * deviations.sum() / count.sum())
