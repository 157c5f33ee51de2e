from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.report import task_symptoms as rules
from nexus.report.reading import read_run
from nexus.report.symptom import Rule
from nexus.results import Estimate, Evaluation, TaskResult


def estimate(value: float, low: float, high: float) -> Any:
    return Estimate(value=value, low=low, high=high, n=300, unit="share")


def healthy(evaluation: Evaluation) -> TaskResult:
    return evaluation.tasks["arithmetic"].model_copy(update={"trained_on": False})


CASES: list[tuple[Rule, dict[str, Any]]] = [
    (rules.teacher_at_chance, {"teacher_above_chance": False}),
    (
        rules.low_retention,
        {"trained_on": True, "retention": {"above_chance": estimate(0.5, 0.4, 0.6)}},
    ),
    (rules.forgetting, {"comparisons": {}}),
    (rules.unanswered, {"unanswered": {"teacher": 0, "trained": 100}}),
]


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _ in CASES} == set(rules.RULES)


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_a_rule_fires_on_its_numbers_and_not_on_healthy_ones(
    run: Path, evaluation: Evaluation, rule: Rule, change: dict[str, Any]
) -> None:
    task = healthy(evaluation)
    if rule is rules.forgetting:
        worse = task.comparisons["trained - untrained"].model_copy(
            update={"difference": estimate(-0.2, -0.3, -0.1)}
        )
        change = {"comparisons": {"trained - untrained": worse}}
    files = read_run(run)
    for each, fires in ((task, False), (task.model_copy(update=change), True)):
        found = rule(replace(files, evaluation=Evaluation(tasks={"arithmetic": each})))
        assert (found is not None) == fires
        assert found is None or "arithmetic" in found.evidence
