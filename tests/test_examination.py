"""What is measured on what: as a user asks, or as a run's recipe says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus import durable
from nexus.data.sources import Jsonl, LocalDataset, Parquet
from nexus.errors import UsageError
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.cloze import Cloze
from nexus.examination import Request, examination, source, tasks

WORK = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    items = [{"id": "a", "question": "Who?", "choices": ["I", "you"], "label": 0}]
    WORK["write_rows"](tmp_path / "easy.jsonl", items)
    WORK["write_rows"](tmp_path / "last.jsonl", [{"id": "a", "context": "one", "target": "two"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_text_is_named_by_its_path(folder: Path) -> None:
    (folder / "set").mkdir()
    assert source("some.jsonl") == Jsonl(path="some.jsonl")
    assert source("some.parquet") == Parquet(path="some.parquet")
    assert source("set") == LocalDataset(path="set")


def test_the_kind_of_a_task_is_told_by_its_columns(folder: Path) -> None:
    assert [type(task) for name in ("easy.jsonl", "last.jsonl") for task in tasks(name)] == [
        Choice,
        Cloze,
    ]


def test_paths_in_a_list_are_relative_to_it(folder: Path) -> None:
    (folder / "below").mkdir()
    written = "tasks:\n- {kind: choice, path: ../easy.jsonl, name: mine}\n"
    (folder / "below" / "list.yaml").write_text(written)
    (task,) = tasks("below/list.yaml")
    assert task.name == "mine" and len(task.items(Path())) == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "holds no list of tasks"),
        ("a: [", "is not valid YAML"),
        ("- {kind: choise, path: easy.jsonl}", "did you mean 'choice'"),
        ("- {kind: choice}", "is missing: add it"),
    ],
)
def test_a_list_with_mistakes_is_refused(folder: Path, written: str, said: str) -> None:
    (folder / "list.yaml").write_text(written)
    with pytest.raises(UsageError, match=said):
        tasks("list.yaml")


def test_a_file_that_is_not_there_is_refused(folder: Path) -> None:
    for name in ("missing.jsonl", "missing.yaml"):
        with pytest.raises(UsageError, match=name):
            tasks(name)


def test_limit_is_each_tasks_and_names_differ(folder: Path) -> None:
    asked = examination(Request("m", tasks=("easy.jsonl", "last.jsonl"), limit=7))
    assert [task.limit for task in asked.tasks] == [7, 7]
    with pytest.raises(UsageError, match="two tasks are called 'easy'"):
        examination(Request("m", tasks=("easy.jsonl", "easy.jsonl")))


def test_a_run_without_a_student_is_refused(folder: Path) -> None:
    recipe = WORK["write_workspace"](folder / "work")
    with pytest.raises(UsageError, match="holds a recipe and no run, which would be in work/run"):
        examination(Request("work"))
    begun = folder / "begun"
    begun.mkdir()
    text = recipe.read_text().replace("output: run", "output: .")
    (begun / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match="is a run, but it has no student yet"):
        examination(Request("begun"))


def test_what_a_run_measures_is_as_its_recipe_says_unless_asked_otherwise(folder: Path) -> None:
    recipe = WORK["write_workspace"](folder / "measured")
    run = folder / "measured" / "done"
    run.mkdir()
    with durable.directory(run / "student") as student:
        (student / "config.json").write_text("{}")
    values = yaml.safe_load(recipe.read_text()) | {"output": "."}
    values["evaluate"] = {"rollouts": 3, "rollout_tokens": 5, "batch_sizes": [2]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    own = examination(Request("measured/done"))
    assert (own.rollouts, own.rollout_tokens, own.batch_sizes) == (3, 5, (2,))
    told = examination(Request("measured/done", rollouts=0, batch_sizes=(1, 4)))
    assert (told.rollouts, told.rollout_tokens, told.batch_sizes) == (0, 5, (1, 4))


def test_the_others_text_and_tasks_fill_what_is_not_named(folder: Path) -> None:
    full = examination(Request("m", text=("some.jsonl",), tasks=("easy.jsonl",)))
    filled = examination(Request("n"), like=full)
    assert (filled.sources, filled.tasks) == (full.sources, full.tasks)
    own = examination(Request("n", text=("other.jsonl",)), like=full)
    assert own.sources == (Jsonl(path="other.jsonl"),) and own.tasks == full.tasks


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"limit": 0}, "--limit is 0: give 1 or more"),
        ({"limit": -3}, "--limit is -3"),
        ({"batch_sizes": (1, 0)}, "--batch-sizes is 0"),
        ({"speed_seconds": -1.0}, "--speed-seconds is -1: give 0 or more"),
        ({"speed_seconds": float("nan")}, "--speed-seconds is nan"),
        ({"rollouts": -1}, "--rollouts is -1"),
        ({"rollouts": 2}, "there is no teacher"),
        ({"rollouts": 2, "teacher": "t"}, "there is no text"),
        ({"sequence_length": 1}, "--sequence-length is 1: give 2 or more"),
        ({"sequence_length": 0}, "--sequence-length is 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        examination(Request("m", **wrong))
