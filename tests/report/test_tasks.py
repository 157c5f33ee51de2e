from __future__ import annotations

from nexus.report.tasks import tasks_view
from nexus.results import Evaluation


def test_lanes_lie_where_their_scores_are(evaluation: Evaluation) -> None:
    view = tasks_view(evaluation.tasks)
    assert view is not None
    low, high = (float(text.split("\N{NO-BREAK SPACE}")[0]) for text in ("0", "90"))
    assert view.ticks[0] == (0.0, "0\N{NO-BREAK SPACE}%")
    for row, task in zip(view.rows, evaluation.tasks.values(), strict=True):
        for lane in row.lanes:
            score = task.scores[lane.model][task.metric].value
            assert abs(lane.at - 100 * (100 * score - low) / (high - low)) < 0.02
            assert lane.low <= lane.at <= lane.high


def test_refusals_forgetting_and_doubts_are_said(evaluation: Evaluation) -> None:
    view = tasks_view(evaluation.tasks)
    assert view is not None
    rows = {row.name: row for row in view.rows}
    assert rows["riddles"].warning and not rows["arithmetic"].warning
    assert rows["riddles"].ratios["above_chance"].value == "not said"
    reasons = [refusal.split(": ", 1)[1] for refusal in view.refusals if "riddles" in refusal]
    assert any("above chance: " in refusal for refusal in view.refusals)
    assert len(reasons) == len(set(reasons)), "each reason once, after all that it holds for"
    assert rows["arithmetic"].forgetting and not rows["questions"].forgetting
    assert rows["questions"].unanswered == "3 / 3 / 3"
    assert rows["questions"].versus["teacher"].p == "p < 0.001"


def test_no_tasks_are_no_view() -> None:
    assert tasks_view({}) is None
