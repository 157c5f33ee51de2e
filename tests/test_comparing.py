"""Two models on the same text and tasks: paired, corrected, and judged in words."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nexus.evaluating as evaluating
from nexus.comparing import Side, compare, contrasts
from nexus.errors import UsageError
from nexus.evaluating import evaluate
from nexus.evaluation.answers import Answers
from nexus.evaluation.kept import Kept, folder_of
from nexus.evaluation.mcnemar import mcnemar
from nexus.evaluation.scoreboard import task_result
from nexus.examination import Request
from nexus.results import Evaluation, Measured, Subject

WORK = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    WORK["write_questions"](folder)
    return folder


def asked(work: Path, **others: Any) -> Request:
    named = {"text": (str(work / "heldout.jsonl"),), "tasks": (str(work / "easy.jsonl"),)}
    return Request("", speed_seconds=0.0, rollouts=0, **{**named, **others})


def answered(folder: Path, name: str, right: str, fingerprint: str = "f" * 64) -> Side:
    """A model that was right where `right` has a 1, as if it had been measured."""
    marks = np.array([float(mark) for mark in right])
    answers = Answers(
        tuple(map(str, range(len(marks)))), {"accuracy": marks}, np.ones(len(marks), bool)
    )
    subject = Subject(name=name, fingerprint=name * 64, dtype="float32")
    result = task_result(
        kind="choice",
        metric="accuracy",
        chance=0.5,
        fingerprint=fingerprint,
        trained_on=False,
        answers={"trained": answers},
        seconds=0.0,
    )
    Kept(folder_of(folder, subject.fingerprint)).answers("easy", fingerprint, lambda _: answers)
    found = Measured(model=subject, evaluation=Evaluation(tasks={"easy": result}), seconds=0.0)
    return Side(name, found, folder)


def test_a_model_does_not_differ_from_itself(work: Path) -> None:
    found = compare(str(work / "student"), str(work / "student"), asked(work), silent)
    assert [row.measure for row in found.rows] == ["text: nll", "easy: accuracy"]
    for row in found.rows:
        assert row.difference.value == 0.0 and row.p_value == 1.0
        assert row.verdict == "none detected"


def test_to_swap_the_two_turns_every_difference_around(work: Path, tmp_path: Path) -> None:
    names = [str(work / name) for name in ("teacher", "student")]
    request = asked(work, teacher=str(work / "teacher"), output=tmp_path / "kept")
    there = compare(*names, request, silent)
    back = compare(*names[::-1], asked(work, teacher=str(work / "teacher")), silent)
    turned = {"first": "second", "second": "first", "none detected": "none detected"}
    for row, other in zip(there.rows, back.rows, strict=True):
        assert row.measure == other.measure
        assert row.difference.value == pytest.approx(-other.difference.value)
        assert turned[row.verdict] == other.verdict
    for row in there.rows:
        low, high, seen = row.difference.low, row.difference.high, row.detectable
        if row.measure.startswith("text") and low is not None and high is not None:
            assert seen == pytest.approx((high - low) / 2 * (1.95996 + 0.84162) / 1.95996, rel=1e-4)
    follow = {row.measure: row for row in there.rows}
    assert follow["text: forward_kl"].verdict == "first"  # nobody follows a teacher as itself does
    assert follow["text: agreement"].verdict == "first"


def test_one_that_answers_more_is_better_and_p_is_mcnemars(tmp_path: Path) -> None:
    good, bad = answered(tmp_path, "a", "1" * 30 + "0" * 10), answered(tmp_path, "b", "0" * 40)
    (row,) = contrasts(good, bad).rows
    assert row.p_value == row.adjusted_p_value == mcnemar(30, 0)
    assert row.verdict == "first" and row.difference.value == 0.75
    (turned,) = contrasts(bad, good).rows
    assert turned.verdict == "second"


def test_too_few_differences_are_none_and_what_could_be_seen_is_said(tmp_path: Path) -> None:
    one, other = answered(tmp_path, "a", "1110" * 50), answered(tmp_path, "b", "1101" * 50)
    (row,) = contrasts(one, other).rows
    assert row.verdict == "none detected"
    # half of the items came out differently: (1.960 + 0.842) · sqrt(0.5 / 200)
    assert row.detectable == pytest.approx(2.8016 * (0.5 / 200) ** 0.5, rel=1e-3)


def test_what_cannot_be_paired_is_refused(work: Path, tmp_path: Path) -> None:
    one = answered(tmp_path, "a", "1100")
    with pytest.raises(UsageError, match="Evaluate both with the same file and the same --limit"):
        contrasts(one, answered(tmp_path, "b", "1100", fingerprint="e" * 64))
    nothing = Measured(model=one.found.model, evaluation=Evaluation(), seconds=0.0)
    with pytest.raises(UsageError, match="Give both the same --text and --tasks"):
        contrasts(one, Side("c", nothing, tmp_path))
    for name, text in (("left", "heldout.jsonl"), ("right", "train.jsonl")):
        request = asked(work, text=(str(work / text),), tasks=(), output=tmp_path / name)
        evaluate(_of(request, str(work / "student")), say=silent)
    with pytest.raises(UsageError, match="Give both the same --text"):
        compare(
            str(tmp_path / "left"), str(tmp_path / "right"), asked(work, text=(), tasks=()), silent
        )


def test_text_in_other_tokens_is_refused_before_anything_is_measured(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see it fail: in comparing.compare, do not look at the tokens first."""
    WORK["save"](tmp_path / "words", *WORK["with_words"]())
    monkeypatch.setattr("nexus.comparing.measured", _never)
    with pytest.raises(UsageError, match="another tokenizer cuts them into other tokens"):
        compare(str(work / "student"), str(tmp_path / "words"), asked(work), silent)


def test_directories_are_compared_without_measuring(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("teacher", "student"):
        evaluate(_of(asked(work, output=tmp_path / name), str(work / name)), say=silent)

    monkeypatch.setattr("nexus.comparing.measured", _never)
    monkeypatch.setattr(evaluating, "measure", _never)
    kept = str(tmp_path / "teacher"), str(tmp_path / "student")
    found = compare(*kept, asked(work, text=(), tasks=()), silent)
    assert len(found.rows) == 2
    with pytest.raises(UsageError, match="hold what was measured before, which --text"):
        compare(*kept, asked(work), silent)
    for file in (tmp_path / "student").glob("*/text-*.npy"):
        file.unlink()
    with pytest.raises(UsageError, match="Evaluate it again"):
        compare(*kept, asked(work, text=(), tasks=()), silent)


def _never(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("measured again")


def _of(request: Request, model: str) -> Request:
    return Request(**{**vars(request), "model": model})
