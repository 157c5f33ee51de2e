"""From answers to a task's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nexus.errors import NexusError
from nexus.evaluation.answers import Answers
from nexus.evaluation.mcnemar import mcnemar
from nexus.evaluation.proportion import paired_difference, wilson
from nexus.evaluation.scoreboard import score, task_result
from nexus.results import Estimate, Refused, TaskResult


def answers(scores: Any, clusters: tuple[str, ...] | None = None, answered: Any = None) -> Answers:
    scores = np.asarray(scores, dtype=float)
    keys = tuple(str(number) for number in range(len(scores)))
    found = np.ones(len(scores), dtype=bool) if answered is None else np.asarray(answered)
    return Answers(keys, {"accuracy": scores}, found, clusters)


def right(count: int, of: int, start: int = 0) -> Answers:
    scores = np.zeros(of)
    scores[start : start + count] = 1
    return answers(scores)


def result(chance: float = 0.25, metric: str = "accuracy", **models: Answers) -> TaskResult:
    return task_result(
        kind="choice",
        metric=metric,
        chance=chance,
        fingerprint="f",
        trained_on=False,
        answers=models,
        seconds=1.5,
    )


def test_all_three_models_side_by_side() -> None:
    found = result(
        teacher=right(140, 200), untrained=right(60, 200), trained=right(100, 200, start=20)
    )
    assert (found.items, found.chance, found.seconds) == (200, 0.25, 1.5)
    trained = found.scores["trained"]["accuracy"]
    assert (trained.value, trained.n, trained.unit) == (0.5, 200, "share")
    assert (trained.low, trained.high) == pytest.approx(wilson(100, 200))
    assert found.teacher_above_chance
    shares = {"raw": 0.5 / 0.7, "above_chance": 0.25 / 0.45, "gap_closed": 0.2 / 0.4}
    for name, share in shares.items():
        estimate = found.retention[name]
        assert isinstance(estimate, Estimate)
        assert estimate.value == pytest.approx(share)
        assert estimate.low is not None and estimate.high is not None and estimate.n == 200
        assert estimate.low < share < estimate.high
    beside_teacher = found.comparisons["trained - teacher"]
    assert (beside_teacher.gained, beside_teacher.lost) == (0, 40)
    assert beside_teacher.p_value == mcnemar(0, 40)
    assert beside_teacher.difference.value == pytest.approx(-0.2)
    assert beside_teacher.difference.low == pytest.approx(paired_difference(0, 40, 200)[0])
    beside_untrained = found.comparisons["trained - untrained"]
    assert (beside_untrained.gained, beside_untrained.lost) == (60, 20)


def test_a_teacher_at_chance_has_nothing_to_retain() -> None:
    found = result(teacher=right(55, 200), trained=right(50, 200))
    assert found.teacher_above_chance is False
    for refused in found.retention.values():
        assert isinstance(refused, Refused)
        assert "0.275" in refused.reason and "0.25" in refused.reason and "200" in refused.reason


def test_one_model_alone_has_scores_only() -> None:
    found = result(trained=right(30, 100))
    assert found.teacher_above_chance is None
    assert found.retention == found.comparisons == {}
    assert found.scores["trained"]["accuracy"].value == 0.3


def test_without_a_teacher_the_change_is_left() -> None:
    found = result(untrained=right(30, 100), trained=right(60, 100))
    assert set(found.comparisons) == {"trained - untrained"}
    assert found.retention == {}


def test_one_item_has_no_interval() -> None:
    found = result(teacher=right(1, 1), trained=right(0, 1))
    assert found.scores["teacher"]["accuracy"].low is None
    assert found.comparisons["trained - teacher"].difference.low is None
    assert found.comparisons["trained - teacher"].p_value == 1.0
    assert found.teacher_above_chance is False
    assert isinstance(found.retention["raw"], Refused)


@pytest.mark.parametrize("count", [0, 100])
def test_all_wrong_and_all_right_stay_uncertain(count: int) -> None:
    found = result(teacher=right(count, 100), untrained=right(20, 100), trained=right(count, 100))
    estimate = found.scores["trained"]["accuracy"]
    assert estimate.low is not None and estimate.high is not None
    assert estimate.high - estimate.low > 0.03
    difference = found.comparisons["trained - teacher"].difference
    assert difference.low is not None and difference.low < 0 < (difference.high or 0)
    retained = found.retention["above_chance"]
    if count:
        assert isinstance(retained, Estimate) and retained.value == 1
        assert retained.low is not None and retained.low < 1 < (retained.high or 0)
    else:
        assert isinstance(retained, Refused)


def test_unanswered_items_are_counted_by_model() -> None:
    models = {
        "teacher": answers([1, 1, 0]),
        "trained": answers([1, 0, 0], answered=[True, False, False]),
    }
    assert result(**models).unanswered == {"teacher": 0, "trained": 2}


def test_scores_between_right_and_wrong() -> None:
    random = np.random.default_rng(0)
    teacher = random.uniform(0.4, 1.0, size=80)
    trained = teacher - random.uniform(0.0, 0.2, size=80)
    found = result(chance=0.0, teacher=answers(teacher), trained=answers(trained))
    compared = found.comparisons["trained - teacher"]
    assert (compared.gained, compared.lost) == (0, 80)
    assert compared.p_value < 0.001
    assert compared.difference.low is not None and compared.difference.high is not None
    assert compared.difference.low < -0.09 and compared.difference.high < -0.08


def test_items_of_one_source_are_drawn_together() -> None:
    """Five copies of each of forty items say no more than forty items do."""
    scores = np.random.default_rng(1).integers(0, 2, size=40).astype(float)
    copies = np.repeat(scores, 5)
    clusters = tuple(f"passage {number}" for number in np.repeat(np.arange(40), 5))
    widths = []
    for each in (answers(copies), answers(copies, clusters), answers(scores)):
        estimate = result(teacher=each).scores["teacher"]["accuracy"]
        assert estimate.low is not None and estimate.high is not None
        assert estimate.value == pytest.approx(scores.mean())
        assert estimate.n == len(each)
        widths.append(estimate.high - estimate.low)
    assert widths[1] > 2 * widths[0]
    assert widths[1] == pytest.approx(widths[2], rel=0.15)


def test_passages_that_are_all_alike_stay_uncertain() -> None:
    clusters = tuple(str(number // 5) for number in range(100))
    alike = answers(np.ones(100), clusters)
    found = result(teacher=alike, trained=alike)
    estimate = found.scores["trained"]["accuracy"]
    assert (estimate.low, estimate.high) == pytest.approx(wilson(20, 20))
    difference = found.comparisons["trained - teacher"].difference
    assert (difference.low, difference.high) == pytest.approx(paired_difference(0, 0, 20))


def test_what_cannot_be_compared_is_said_in_a_sentence() -> None:
    with pytest.raises(NexusError, match="'a' answered 3 items and 'b' 2"):
        result(a=right(1, 3), b=right(1, 2))
    with pytest.raises(NexusError, match="no items"):
        result(trained=right(0, 0))
    with pytest.raises(NexusError, match="no score 'f1', but accuracy"):
        result(metric="f1", trained=right(1, 3))
    with pytest.raises(NexusError, match="accuracy that is no number .first item: '1'"):
        result(trained=answers([0.0, np.nan]))


def test_only_scores_between_wrong_and_right_are_shares() -> None:
    assert score(np.array([0.5, 1.0, 0.25])).unit == "share"
    assert score(np.array([-12.5, -0.5, -3.0])).unit == ""  # log-probabilities
