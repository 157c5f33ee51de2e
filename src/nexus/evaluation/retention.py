"""How much of the teacher is left: ratios and differences of paired measures, or a refusal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.evaluation.bootstrap import RESAMPLES, Bootstrap
from nexus.results import Estimate, Refused, Unit


@dataclass(frozen=True)
class Totals:
    """A measure by document: its sum, and the number of tokens (or items) it was summed over.

    Two of them are paired: row i is the same document in both.
    """

    total: Float[ndarray, " n"]
    count: Float[ndarray, " n"]


def retention(
    student: Totals,
    teacher: Totals,
    *,
    chance: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate | Refused:
    """(student - chance) / (teacher - chance), for measures where higher is better.

    A ratio of means, not a mean of ratios. More than 100 % is legal. `chance` is what guessing
    scores: 0.25 with four choices.
    """
    bootstrap = _paired(resamples, seed, student, teacher)

    def above_chance(sums: ndarray) -> ndarray:
        return np.asarray(_mean(sums, 1) - chance)

    if bootstrap.n < 2 or above_chance(bootstrap.replicates).min() <= 0:
        score = float(_mean(bootstrap.observed, 1)[0])
        return Refused(
            reason=f"the teacher's {score:.3g} is not clearly above chance ({chance:.3g}) "
            f"on {_documents(bootstrap.n)}"
        )
    return bootstrap.estimate(lambda sums: (_mean(sums, 0) - chance) / above_chance(sums), "share")


def gap_closed(
    untrained: Totals,
    trained: Totals,
    teacher: Totals,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate | Refused:
    """(untrained - trained) / (untrained - teacher), for losses: 1 is as good as the teacher.

    Negative when training made the student worse, above 1 when it overtook its teacher. With an
    equally long run on the task alone in place of `untrained` it is what distillation itself added.
    """
    bootstrap = _paired(resamples, seed, untrained, trained, teacher)

    def gap(sums: ndarray) -> ndarray:
        return np.asarray(_mean(sums, 0) - _mean(sums, 2))

    if bootstrap.n < 2 or gap(bootstrap.replicates).min() <= 0:
        before, goal = (float(_mean(bootstrap.observed, which)[0]) for which in (0, 2))
        return Refused(
            reason=f"the untrained student's loss of {before:.3g} is not clearly above the "
            f"teacher's {goal:.3g} on {_documents(bootstrap.n)}: there was no gap to close"
        )
    return bootstrap.estimate(lambda sums: (_mean(sums, 0) - _mean(sums, 1)) / gap(sums), "share")


def mean(of: Totals, *, unit: Unit = "", resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A mean over tokens (or items)."""
    return _paired(resamples, seed, of).estimate(lambda sums: _mean(sums, 0), unit)


def difference(
    first: Totals,
    second: Totals,
    *,
    unit: Unit = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """first - second, with the interval of the paired difference."""
    bootstrap = _paired(resamples, seed, first, second)
    return bootstrap.estimate(lambda sums: _mean(sums, 0) - _mean(sums, 1), unit)


def perplexity_ratio(
    student: Totals, teacher: Totals, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """exp(student's mean loss - teacher's): how many times the teacher's perplexity is left."""
    bootstrap = _paired(resamples, seed, student, teacher)
    return bootstrap.estimate(lambda sums: _mean(sums, 0) - _mean(sums, 1), "×", through=math.exp)


def _paired(resamples: int, seed: int, *measures: Totals) -> Bootstrap:
    columns = [column for measure in measures for column in (measure.total, measure.count)]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"paired measures need the same documents, got {sorted(lengths)} of them")
    return Bootstrap.of(np.stack(columns, axis=1).astype(np.float64), resamples, seed)


def _mean(sums: Float[ndarray, "m k"], which: int) -> Float[ndarray, " m"]:
    return np.asarray(sums[:, 2 * which] / sums[:, 2 * which + 1])


def _documents(n: int) -> str:
    return "1 document" if n == 1 else f"{n:,} documents"
