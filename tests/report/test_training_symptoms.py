from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.findings import Finding, note
from nexus.report import training_symptoms as rules
from nexus.report.reading import RunFiles, read_run
from nexus.report.symptom import Rule


def steps(kl: Callable[[int], float], **more: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [
        {"stage": "train", "step": step, "loss": kl(step), "kl": kl(step)}
        | {name: value(step) for name, value in more.items()}
        for step in range(1, 101)
    ]


def flat(step: int) -> float:
    return 1.0 + 0.001 * (step % 2)


FALLING = steps(lambda step: 2.0 - 0.01 * step)
SPIKE = steps(lambda step: 30.0 if step == 60 else flat(step))
RISING = steps(lambda step: 2.0 - 0.01 * step, heldout_kl=lambda step: 1.0 + abs(step - 50) / 50)
SKIPPED = steps(flat, skipped=lambda step: step == 7)
CUT = {"data": {"train: a.jsonl": {"examples": 100, "truncated": 20, "dropped": 0}}}

CASES: list[tuple[Rule, dict[str, Any]]] = [
    (rules.still_falling, {"steps": FALLING}),
    (rules.overfitting, {"steps": RISING}),
    (rules.spikes, {"steps": SPIKE}),
    (rules.skipped_steps, {"steps": SKIPPED}),
    (rules.cut_documents, {"environment": CUT}),
]


def healthy(run: Path) -> RunFiles:
    data = {"data": {"train: a.jsonl": {"examples": 100, "truncated": 1, "dropped": 0}}}
    return replace(read_run(run), steps=steps(flat, heldout_kl=flat), environment=data)


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, _ in CASES} | {rules.rate_lowered} == set(rules.RULES)


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_a_rule_fires_on_its_numbers_and_not_on_healthy_ones(
    run: Path, rule: Rule, change: dict[str, Any]
) -> None:
    assert rule(healthy(run)) is None
    found = rule(replace(healthy(run), **change))
    assert found is not None and found.evidence


def test_a_lowered_rate_is_found_among_the_findings(run: Path) -> None:
    note(run, Finding("train", 3, "a checkpoint is damaged", "It is kept aside"))
    assert rules.rate_lowered(healthy(run)) is None
    remedy = "Training goes back to a checkpoint, and on with 0.5 of the rate"
    note(run, Finding("train", 9, "too many bad steps", remedy))
    found = rules.rate_lowered(healthy(run))
    assert found is not None and found.evidence == "train, step 9"


def noisy(step: int) -> float:
    return random.Random(step).gauss(0.0, 0.002)


def on_cosine(step: int) -> float:
    """A run that follows its learning rate down to where it is flat."""
    return 1.0 + 0.25 * (1 + math.cos(math.pi * step / 100)) + noisy(step)


@pytest.mark.parametrize("looks", [False, True])
def test_a_schedule_that_ended_flat_is_not_falling(run: Path, looks: bool) -> None:
    def look(step: int) -> float | None:
        return on_cosine(step) - noisy(step) if step % 10 == 0 else None

    held = {"heldout_kl": look} if looks else {}
    whole = replace(healthy(run), steps=steps(on_cosine, **held))
    assert rules.still_falling(whole) is None
    half = replace(whole, steps=whole.steps[:70])
    found = rules.still_falling(half)
    assert found is not None and ("held-out" in found.evidence) is looks


def test_held_out_points_overrule_training_text(run: Path) -> None:
    """What is learnt by heart goes on falling, and more steps would not help."""
    known = steps(lambda step: 2.0 - 0.01 * step, heldout_kl=lambda step: 1.0)
    assert rules.still_falling(replace(healthy(run), steps=known)) is None


@pytest.mark.parametrize(("fall", "falls"), [(0.001, False), (0.01, True)])
def test_a_run_that_learns_from_text_alone_has_held_out_points_only(
    run: Path, fall: float, falls: bool
) -> None:
    """To see it fail: in training_symptoms._late_looks, count the steps with a KL."""
    known = [
        {"stage": "train", "step": step, "loss": 2.0 - fall * step}
        | ({"heldout_kl": 2.0 - fall * step} if step % 12 == 0 else {})
        for step in range(1, 101)
    ]
    files = replace(healthy(run), steps=known)
    for rule in rules.RULES:
        found = rule(files)
        assert found is None or (falls and rule is rules.still_falling)
    assert (rules.still_falling(files) is not None) is falls


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_not_falling(run: Path, seed: int) -> None:
    draw = random.Random(seed)
    known = steps(lambda step: draw.gauss(1.0, 0.1))
    assert rules.still_falling(replace(healthy(run), steps=known)) is None


def test_a_short_run_says_nothing(run: Path) -> None:
    known = steps(lambda step: 2.0 - 0.01 * step)[: rules.FEWEST_STEPS - 1]
    assert rules.still_falling(replace(healthy(run), steps=known)) is None
