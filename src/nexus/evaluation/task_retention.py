"""How much of the teacher is left on a task, paired by item."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nexus.evaluation.proportion import paired_ratio
from nexus.evaluation.retention import Totals, gap_closed, retention
from nexus.results import Estimate, Refused

TEACHER, UNTRAINED, TRAINED = "teacher", "untrained", "trained"


def task_retention(
    scores: Mapping[str, Float[ndarray, " n"]],
    clusters: tuple[str, ...] | None = None,
    chance: float = 0.0,
    seed: int = 0,
) -> dict[str, Estimate | Refused]:
    """`raw`, `above_chance`, and `gap_closed` where there is an untrained student; by model's name.

    (trained - chance) / (teacher - chance), and (trained - untrained) / (teacher - untrained):
    ratios of means. Where the denominator is not clearly above 0 the ratio would be one of noise,
    and is refused. So is `raw` then: of a teacher that guesses, every guesser retains 100 %.
    """
    if TRAINED not in scores or TEACHER not in scores:
        return {}
    known = clusters is None and all(is_binary(each) for each in scores.values())
    find = _of_items if known else _of_clusters
    above, raw, closed = find(scores, clusters, chance, seed)
    n, teacher = len(scores[TEACHER]), float(scores[TEACHER].mean())
    guessing = Refused(
        reason=f"the teacher's {teacher:.3g} is not clearly above chance ({chance:.3g}) "
        f"on {_items(n)}"
    )
    found: dict[str, Estimate | Refused] = {
        "raw": guessing if above is None or raw is None else raw,
        "above_chance": above or guessing,
    }
    if UNTRAINED in scores:
        found["gap_closed"] = closed or Refused(
            reason=f"the teacher's {teacher:.3g} is not clearly above the untrained student's "
            f"{float(scores[UNTRAINED].mean()):.3g} on {_items(n)}: there was no gap to close"
        )
    return found


def totals(values: Float[ndarray, " n"], clusters: tuple[str, ...] | None) -> Totals:
    """Sums and counts by cluster; without clusters every item is one."""
    if clusters is None:
        return Totals(values, np.ones(len(values)))
    _, which = np.unique(np.array(clusters), return_inverse=True)
    return Totals(np.bincount(which, weights=values), np.bincount(which).astype(np.float64))


def is_binary(values: Float[ndarray, " n"]) -> bool:
    """Whether every item is either right or wrong."""
    return bool(np.all((values == 0) | (values == 1)))


_Found = tuple[Estimate | None, Estimate | None, Estimate | None]


def _of_items(
    scores: Mapping[str, Float[ndarray, " n"]],
    clusters: tuple[str, ...] | None,
    chance: float,
    seed: int,
) -> _Found:
    trained, teacher = scores[TRAINED], scores[TEACHER]
    both = np.stack([trained, teacher], axis=1)
    above, raw = (_ratio(both, (1, 0), (0, 1), guessed) for guessed in (chance, 0.0))
    if UNTRAINED not in scores:
        return above, raw, None
    three = np.stack([trained, teacher, scores[UNTRAINED]], axis=1)
    return above, raw, _ratio(three, (1, 0, -1), (0, 1, -1), 0.0)


def _ratio(
    right: Float[ndarray, "n models"],
    over: tuple[int, ...],
    under: tuple[int, ...],
    chance: float,
) -> Estimate | None:
    interval = paired_ratio(right, over, under, chance) if len(right) > 1 else None
    if interval is None:
        return None
    means = right.mean(axis=0) - chance
    low, high = interval
    value = float(means @ np.array(over)) / float(means @ np.array(under))
    return Estimate(value=value, low=low, high=high, n=len(right), unit="share")


def _of_clusters(
    scores: Mapping[str, Float[ndarray, " n"]],
    clusters: tuple[str, ...] | None,
    chance: float,
    seed: int,
) -> _Found:
    """Also of scores between right and wrong."""
    sums = {model: totals(each, clusters) for model, each in scores.items()}
    found = [
        retention(sums[TRAINED], sums[TEACHER], chance=chance, seed=seed),
        retention(sums[TRAINED], sums[TEACHER], seed=seed),
    ]
    if UNTRAINED in sums:
        lost = {model: Totals(-each.total, each.count) for model, each in sums.items()}
        found.append(gap_closed(lost[UNTRAINED], lost[TRAINED], lost[TEACHER], seed=seed))
    n = len(scores[TEACHER])
    kept = [
        each.model_copy(update={"n": n}) if isinstance(each, Estimate) else None for each in found
    ]
    return kept[0], kept[1], kept[2] if len(kept) > 2 else None


def _items(n: int) -> str:
    return "1 item" if n == 1 else f"{n:,} items"
