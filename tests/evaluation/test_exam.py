"""The same tasks put to several models, each asked once."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.evaluation.exam import Examinee, exam
from nexus.evaluation.kept import Kept
from nexus.evaluation.tasks.choice import Choice

WORK = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
TOKENIZER = WORK["make_tokenizer"]()
EASY = Choice(path="easy.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": f"q{i}", "question": f"What is {i}?", "choices": ["a cat", "dog"], "label": i % 2}
        for i in range(12)
    ]
    WORK["write_rows"](tmp_path / "easy.jsonl", rows)
    return tmp_path


def examinee(folder: Path, seed: int) -> Examinee:
    model = WORK["make_model"](layers=1, seed=seed)
    return Examinee(lambda: model, TOKENIZER, Kept(folder / f"model-{seed}"))


def test_models_are_paired_and_none_is_asked_twice(folder: Path) -> None:
    models = {"teacher": examinee(folder, 1), "trained": examinee(folder, 2)}
    first = exam([EASY], models, folder=folder)["easy"]
    assert first.items == 12 and set(first.scores) == {"teacher", "trained"}
    assert first.comparisons["trained - teacher"].difference.n == 12

    def never() -> Any:
        raise AssertionError("loaded again")

    again = exam(
        [EASY], {name: replace(each, model=never) for name, each in models.items()}, folder=folder
    )
    assert again["easy"].model_copy(update={"seconds": first.seconds}) == first


def test_a_model_that_is_gone_counts_where_it_answered_before(folder: Path) -> None:
    before = examinee(folder, 1)
    models = {"untrained": replace(before, model=None), "trained": examinee(folder, 2)}
    assert set(exam([EASY], models, folder=folder)["easy"].scores) == {"trained"}
    exam([EASY], {"untrained": before}, folder=folder)
    result = exam([EASY], models, folder=folder)["easy"]
    assert set(result.scores) == {"untrained", "trained"}
    assert "trained - untrained" in result.comparisons


def test_what_was_trained_on_is_said(folder: Path) -> None:
    models = {"trained": examinee(folder, 1)}
    other = EASY.model_copy(update={"name": "other"})
    found = exam([EASY, other], models, folder=folder, trained_on=lambda task: task.name == "other")
    assert {name: each.trained_on for name, each in found.items()} == {
        "easy": False,
        "other": True,
    }


def test_every_task_is_read_before_any_model_is_asked(folder: Path) -> None:
    def never() -> Any:
        raise AssertionError("asked")

    models = {"trained": Examinee(never, TOKENIZER, Kept(None))}
    with pytest.raises(UsageError, match=r"missing\.jsonl"):
        exam([EASY, Choice(path="missing.jsonl")], models, folder=folder)
