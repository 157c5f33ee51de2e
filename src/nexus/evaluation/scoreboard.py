"""One task's results: the scores of all models, what is left of the teacher's, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.errors import NexusError
from nexus.evaluation.answers import Answers
from nexus.evaluation.mcnemar import paired_test
from nexus.evaluation.proportion import paired_difference, wilson
from nexus.evaluation.retention import difference, mean
from nexus.evaluation.task_retention import (
    TEACHER,
    TRAINED,
    UNTRAINED,
    is_binary,
    task_retention,
    totals,
)
from nexus.results import Comparison, Estimate, TaskResult, Unit


def task_result(
    *,
    kind: str,
    metric: str,
    chance: float,
    fingerprint: str,
    trained_on: bool,
    answers: Mapping[str, Answers],
    seconds: float,
    seed: int = 0,
) -> TaskResult:
    """Put the answers of several models to one task side by side, paired by item.

    Args:
        kind: how the task is put.
        metric: which of the scores retention and comparisons are about.
        chance: what guessing scores.
        fingerprint: of the items and of how they are put.
        trained_on: whether the training mix holds data of this task.
        answers: by model: `teacher`, `untrained`, `trained`, whichever were asked.
        seconds: what asking took.
        seed: of the resampling.

    Raises:
        NexusError: there is no item, the models were not asked the same ones, a score is missing
            or not finite.
    """
    _check(metric, answers)
    first = next(iter(answers.values()))
    values = {model: each.scores[metric] for model, each in answers.items()}
    scores = {
        model: {name: score(each.scores[name], each.clusters, seed) for name in each.scores}
        for model, each in answers.items()
    }
    teacher = scores.get(TEACHER, {}).get(metric)
    return TaskResult(
        kind=kind,
        metric=metric,
        items=len(first),
        chance=chance,
        fingerprint=fingerprint,
        trained_on=trained_on,
        scores=scores,
        unanswered={model: each.unanswered for model, each in answers.items()},
        teacher_above_chance=None if teacher is None else (teacher.low or 0.0) > chance,
        retention=task_retention(values, first.clusters, chance, seed),
        comparisons={
            f"{TRAINED} - {other}": compare(values[TRAINED], values[other], first.clusters, seed)
            for other in (TEACHER, UNTRAINED)
            if TRAINED in values and other in values
        },
        seconds=seconds,
    )


def compare(
    first: Float[ndarray, " n"],
    second: Float[ndarray, " n"],
    clusters: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Comparison:
    """How far two models differ on the same items, and whether that may be luck."""
    apart = first - second
    gained, lost = int(np.count_nonzero(apart > 0)), int(np.count_nonzero(apart < 0))
    if clusters is None and is_binary(first) and is_binary(second):
        estimate = _estimate(
            float(apart.mean()), paired_difference(gained, lost, len(apart)), len(apart)
        )
    else:
        estimate = difference(
            totals(first, clusters), totals(second, clusters), unit="share", seed=seed
        )
        estimate = estimate.model_copy(update={"n": len(apart)})
        groups = len(set(clusters or ()))
        if groups > 1 and not apart.any() and is_binary(first):
            low, high = paired_difference(0, 0, groups)
            estimate = estimate.model_copy(update={"low": low, "high": high})
    return Comparison(
        difference=estimate,
        gained=gained,
        lost=lost,
        p_value=paired_test(totals(apart, clusters).total, seed=seed),
    )


def score(
    values: Float[ndarray, " n"], clusters: tuple[str, ...] | None = None, seed: int = 0
) -> Estimate:
    """The mean over items: Wilson's interval where they are right or wrong and independent.

    Where every item of every cluster is alike it is Wilson's too, with a cluster as one item.
    """
    if clusters is None and is_binary(values):
        return _estimate(
            float(values.mean()), wilson(round(values.sum()), len(values)), len(values)
        )
    sums = totals(values, clusters)
    unit: Unit = "share" if values.min() >= 0 and values.max() <= 1 else ""
    found = mean(sums, unit=unit, seed=seed).model_copy(update={"n": len(values)})
    if is_binary(values) and values.min() == values.max() and len(sums.total) > 1:
        low, high = wilson(round(values[0]) * len(sums.total), len(sums.total))
        found = found.model_copy(update={"low": low, "high": high})
    return found


def _estimate(value: float, interval: tuple[float, float], n: int) -> Estimate:
    low, high = interval if n > 1 else (None, None)
    return Estimate(value=value, low=low, high=high, n=n, unit="share")


def _check(metric: str, answers: Mapping[str, Answers]) -> None:
    if not answers or not len(next(iter(answers.values()))):
        raise NexusError("The task has no items that a model could answer. Give it some.")
    (name, first), *others = answers.items()
    for other, each in others:
        if each.keys != first.keys or each.clusters != first.clusters:
            raise NexusError(
                f"'{name}' answered {len(first)} items and '{other}' {len(each)}, and they are not "
                "the same in the same order. Ask all models the same items."
            )
    for model, each in answers.items():
        if metric not in each.scores:
            raise NexusError(
                f"'{model}' has no score '{metric}', but {', '.join(sorted(each.scores))}. "
                "Compare models by a score that all of them have."
            )
        for key, values in each.scores.items():
            if not np.all(np.isfinite(values)):
                bad = each.keys[int(np.argmin(np.isfinite(values)))]
                raise NexusError(
                    f"'{model}' has a {key} that is no number (first item: '{bad}'). The model "
                    "overflowed or is damaged: evaluate it in fp32."
                )
