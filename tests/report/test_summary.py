from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.report.reading import read_run
from nexus.report.summary import asked, headline, student_kind, teacher_name, verdict
from nexus.results import Estimate, Evaluation


def test_the_headline_says_what_was_asked_and_what_came_out(run: Path) -> None:
    said = " ".join(headline(read_run(run))).replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "a student made of 15 of the layers of SmolLM2-135M-Instruct",
        "120 steps on 246 k target tokens",
        "On 212 held-out documents",
        "62.8 % (95 % interval 61.9 – 63.7)",
        "perplexity is 26.6 against the teacher's 17.0",
        "Training closed 88.1 %",
        "61 % of the teacher's parameters (81.4 M of 135 M)",
        "writes 1.87× as fast",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "Training made it worse"),
        (-0.1, 0.1, "cannot be told from this data"),
        (-0.3, -0.1, "Training closed"),
    ],
)
def test_the_verdict_on_training_follows_the_interval(
    run: Path, evaluation: Evaluation, low: float, high: float, said: str
) -> None:
    change = Estimate(value=(low + high) / 2, low=low, high=high, n=212, unit="nats")
    assert evaluation.heldout is not None
    heldout = evaluation.heldout.model_copy(update={"change": {"forward_kl": change}})
    files = replace(read_run(run), evaluation=evaluation.model_copy(update={"heldout": heldout}))
    assert said in " ".join(headline(files))


def test_a_run_without_evaluation_says_so(run: Path) -> None:
    files = replace(read_run(run), evaluation=None, steps=[])
    assert headline(files) == [
        "Asked for a student made of 15 of the layers of SmolLM2-135M-Instruct. "
        "Training has not started.",
        "It has not been evaluated yet, so nothing can be said of what is left.",
    ]
    assert "not started" in asked(files)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"kind": "layers", "pick": [0, 2, 4]}, "a student made of 3 of the layers of big"),
        ({"kind": "pretrained", "model": "org/small"}, "small as a student of big"),
        ({"kind": "scratch"}, "a student of big from random weights"),
        ({"kind": "pruned"}, "a pruned student of big"),
    ],
)
def test_students_in_words(student: dict[str, Any], said: str) -> None:
    assert student_kind({"teacher": {"model": "org/big"}, "student": student}) == said


def test_a_teacher_is_named_without_its_folder() -> None:
    assert teacher_name({"teacher": {"kind": "local", "model": "/models/big"}}) == "big"
    assert (
        teacher_name({"teacher": {"model": "org/big", "gguf_file": "big-q8.gguf"}}) == "big-q8.gguf"
    )
    assert teacher_name({}) == "the teacher"


@pytest.mark.parametrize(
    ("low", "high", "tone", "sign"),
    [(0.1, 0.3, "bad", "▼"), (-0.1, 0.1, "unknown", "●"), (-0.3, -0.1, "good", "▲")],
)
def test_the_sign_of_the_verdict_follows_the_interval(
    evaluation: Evaluation, low: float, high: float, tone: str, sign: str
) -> None:
    change = Estimate(value=(low + high) / 2, low=low, high=high, n=212, unit="nats")
    assert evaluation.heldout is not None
    heldout = evaluation.heldout.model_copy(update={"change": {"forward_kl": change}})
    found = verdict(evaluation.model_copy(update={"heldout": heldout}))
    assert (found.tone, found.sign) == (tone, sign)


def test_without_held_out_text_the_tasks_decide(evaluation: Evaluation) -> None:
    found = verdict(evaluation.model_copy(update={"heldout": None}))
    assert found.tone == "good" and found.words.startswith("2 tasks better, 0 worse")
    assert verdict(Evaluation()).tone == verdict(None).tone == "unknown"


def test_skills_are_said_of_tasks_that_say_anything(run: Path, evaluation: Evaluation) -> None:
    said = " ".join(headline(read_run(run))).replace("\N{NO-BREAK SPACE}", " ")
    assert "over 2 tasks" in said  # of the third the teacher is not above chance
    assert "better at 2 tasks and worse at 0" in said
