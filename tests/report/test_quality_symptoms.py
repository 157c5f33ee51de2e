from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.report import quality_symptoms as rules
from nexus.report.reading import RunFiles, read_run
from nexus.report.summary import verdict
from nexus.report.symptom import Rule
from nexus.results import Estimate, Evaluation


def spoilt(evaluation: Evaluation, *path: str, value: Any) -> Evaluation:
    """The evaluation with one thing in it another."""
    values = evaluation.model_dump(mode="json")
    place = values
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return Evaluation.parse(values, "spoilt")


def estimate(value: float, low: float, high: float) -> Any:
    return Estimate(value=value, low=low, high=high, n=212).model_dump(mode="json")


def calibrated(ece: float, gap: float) -> Any:
    bins = [{"confidence": 0.5 + gap, "accuracy": 0.5, "share": 1.0}]
    error = estimate(ece, ece - 0.01, ece + 0.01)
    return {"ece": error, "uncorrected": ece, "bias": 0.0, "bins": bins}


CASES: list[tuple[Rule, tuple[str, ...], Any]] = [
    (rules.worse_than_untrained, ("heldout", "change", "forward_kl"), estimate(0.2, 0.1, 0.3)),
    (rules.no_difference, ("heldout", "change", "forward_kl"), estimate(0.0, -0.1, 0.1)),
    (rules.few_documents, ("heldout", "documents"), 12),
    (rules.exposure_gap, ("rollouts", "exposure_gap", "forward_kl"), estimate(0.5, 0.4, 0.6)),
    (rules.too_sure, ("heldout", "trained", "calibration"), calibrated(0.1, 0.1)),
    (rules.too_unsure, ("heldout", "trained", "calibration"), calibrated(0.1, -0.1)),
    (rules.smaller_not_faster, ("speed", "speedup", "decode"), estimate(1.01, 0.97, 1.04)),
]


def test_a_corrected_teacher_is_no_fault_of_training(run: Path, evaluation: Evaluation) -> None:
    stage = {"name": "a", "teacher": "none", "parameters": 2, "steps": 1, "tokens": 1}
    farther = spoilt(
        evaluation, "heldout", "change", "forward_kl", value=estimate(0.2, 0.1, 0.3)
    )  # fmt: skip
    for taught, severity in (("previous", "notable"), ("original", "serious")):
        stages = [stage, {**stage, "name": "b", "teacher": taught}]
        said = spoilt(farther, "stages", value=stages)
        found = rules.worse_than_untrained(replace(read_run(run), evaluation=said))
        assert found is not None and found.weight == severity
        assert verdict(said).tone == ("unknown" if taught == "previous" else "bad")


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, *_ in CASES} == set(rules.RULES)


@pytest.mark.parametrize(("rule", "path", "value"), CASES)
def test_a_rule_fires_on_its_numbers_and_not_on_healthy_ones(
    run: Path, evaluation: Evaluation, rule: Callable[[RunFiles], Any], path: Any, value: Any
) -> None:
    healthy = read_run(run)
    assert rule(healthy) is None
    found = rule(replace(healthy, evaluation=spoilt(evaluation, *path, value=value)))
    assert found is not None and found.evidence
