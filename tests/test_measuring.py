"""What a run measures of its student, and when it measures nothing."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.evaluating import evaluate as measure_again
from nexus.evaluation.tasks.choice import Choice
from nexus.examination import Request
from nexus.measuring import is_trained_on
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


def test_nothing_is_measured_without_heldout_documents(recipe: Path) -> None:
    changes = ("output=unmeasured", "data.heldout=[]", "train.steps=1")
    directory = run(load(recipe, changes), recipe.parent)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout is None and evaluation.size
    assert not (directory.path / "untrained.npy").exists()


def write_tasks(folder: Path) -> None:
    rows = [
        {"id": f"q{i}", "question": f"What is {i}?", "choices": ["a cat", "dog"], "label": i % 2}
        for i in range(12)
    ]
    SMALL["write_rows"](folder / "easy.jsonl", rows)
    SMALL["write_rows"](folder / "hard.jsonl", rows)


WITH_TASKS = (
    "evaluate.tasks=[{kind: choice, path: easy.jsonl}, {kind: choice, path: hard.jsonl}]",
    "data.sources.0.task=hard",
    "evaluate.rollouts=2",
    "evaluate.rollout_tokens=4",
)


def test_a_run_measures_tasks_before_and_after(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(recipe.parent)
    directory = run(load(recipe, ("output=tasks", *WITH_TASKS)), recipe.parent)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None
    easy, hard = evaluation.tasks["easy"], evaluation.tasks["hard"]
    assert set(easy.scores) == {"teacher", "untrained", "trained"} and easy.items == 12
    assert set(easy.comparisons) == {"trained - teacher", "trained - untrained"}
    assert (easy.trained_on, hard.trained_on) == (False, True)
    assert evaluation.rollouts is not None and evaluation.rollouts.documents == 2

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr("nexus.evaluation.exam.run", never)
    request = Request(str(directory.path), speed_seconds=0.0, rollouts=0)
    again = measure_again(request, say=lambda text: None)
    assert again.evaluation.tasks["easy"].scores == easy.scores
    assert again.evaluation.tasks["hard"].trained_on
    assert again.evaluation.heldout and evaluation.heldout
    assert again.evaluation.heldout.documents == evaluation.heldout.documents
    assert again.evaluation.heldout.untrained == evaluation.heldout.untrained
    ours, theirs = again.evaluation.heldout.trained.nll, evaluation.heldout.trained.nll
    assert ours.value == pytest.approx(theirs.value, rel=1e-5)


def test_a_task_that_cannot_be_read_stops_a_run_before_its_first_step(recipe: Path) -> None:
    (recipe.parent / "empty.jsonl").write_text("")
    changes = ("output=refused", "evaluate.tasks=[{kind: choice, path: empty.jsonl}]")
    with pytest.raises(UsageError, match=r"empty\.jsonl: there is no item in it"):
        run(load(recipe, changes), recipe.parent)
    assert not (recipe.parent / "refused").exists()


def test_documents_too_short_are_not_continued(recipe: Path) -> None:
    SMALL["write_rows"](recipe.parent / "short.jsonl", [{"text": f"number {i}"} for i in range(9)])
    changes = ("output=short", "data.heldout.0.path=short.jsonl", "train.steps=1")
    directory = run(load(recipe, changes), recipe.parent)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout and evaluation.rollouts is None


def test_a_task_is_trained_on_if_a_source_is_its_file_or_has_its_name(recipe: Path) -> None:
    def trained_on(task: Choice, *changes: str) -> bool:
        return is_trained_on(task, load(recipe, changes), recipe.parent)

    assert trained_on(Choice(path="../" + recipe.parent.name + "/train.jsonl"))
    assert trained_on(Choice(path="other.jsonl", name="math"), "data.sources.0.task=math")
    assert not trained_on(Choice(path="other.jsonl"))
    assert not trained_on(Choice(path="heldout.jsonl"))
