"""A run directory is continued by the same recipe only, and never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.recipe.load import load
from nexus.recipe.schema import Recipe
from nexus.rundir import RunDirectory


def recipe(seed: int = 0) -> Recipe:
    return Recipe.parse(
        {
            "output": "run",
            "seed": seed,
            "teacher": {"model": "teacher"},
            "student": {"kind": "layers", "count": 2},
            "data": {"sources": [{"kind": "jsonl", "path": "train.jsonl"}]},
            "objectives": [{"kind": "output"}],
            "train": {"steps": 10},
        }
    )


def test_a_new_run_begins_with_its_resolved_recipe(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "runs" / "a", recipe())
    assert load(run.recipe_file) == recipe()
    assert not run.is_finished


def test_the_same_recipe_continues_and_touches_nothing(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "a", recipe())
    (run.path / "metrics.jsonl").write_text("kept")
    before = run.recipe_file.stat().st_mtime_ns
    RunDirectory.open(tmp_path / "a", recipe())
    assert (run.path / "metrics.jsonl").read_text() == "kept"
    assert run.recipe_file.stat().st_mtime_ns == before


def test_another_recipe_is_refused_with_both_values_and_the_remedy(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "a", recipe(seed=3))
    with pytest.raises(UsageError, match=r"seed: 3 there, 4 now(.|\n)*--fresh"):
        RunDirectory.open(tmp_path / "a", recipe(seed=4))


def test_fresh_keeps_the_old_run_aside(tmp_path: Path) -> None:
    old = RunDirectory.open(tmp_path / "a", recipe(seed=3))
    (old.path / "metrics.jsonl").write_text("old")
    for seed in (4, 5):
        RunDirectory.open(tmp_path / "a", recipe(seed=seed), fresh=True)
    kept = [path for path in tmp_path.iterdir() if path.name != "a"]
    assert sorted(load(path / "recipe.yaml").seed for path in kept) == [3, 4]
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="holds no run"):
            RunDirectory.open(tmp_path, recipe(), fresh=fresh)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        RunDirectory.open(tmp_path / "a", recipe())


def test_a_run_is_finished_when_it_is_evaluated_and_reported(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "a", recipe())
    run.write("report.html", "<html>")
    assert not run.is_finished
    run.write_json("evaluation.json", {})
    assert run.is_finished


def test_files_are_replaced_whole_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "a", recipe())
    run.write_json("environment.json", {"name": "first, and longer"})
    run.write_json("environment.json", {"name": "ü"})
    assert json.loads((run.path / "environment.json").read_text(encoding="utf-8")) == {"name": "ü"}
    assert {path.name for path in run.path.iterdir()} == {"recipe.yaml", "environment.json"}


def test_a_file_whose_writing_fails_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.open(tmp_path / "a", recipe())
    run.write("report.html", "old")

    def full(path: Path, text: str, **_: object) -> None:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        run.write("report.html", "new and longer")
    assert run.report.read_text() == "old"


def test_an_empty_directory_is_welcome(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, recipe())
    assert (tmp_path / "recipe.yaml").exists()


def test_a_run_whose_recipe_is_broken_is_not_guessed_at(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "a", recipe())
    run.recipe_file.write_text("a: [")
    with pytest.raises(UsageError, match="not valid YAML"):
        RunDirectory.open(tmp_path / "a", recipe())


def test_many_differences_are_shown_in_part(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "a", recipe())
    values = recipe().model_dump(mode="json", exclude_none=True)
    values["train"] |= {"steps": 1, "learning_rate": 1.0, "betas": [0.1, 0.2], "save_every": 1}
    with pytest.raises(UsageError) as caught:
        RunDirectory.open(tmp_path / "a", Recipe.parse({**values, "seed": 1}))
    assert str(caught.value).count(" there, ") == 5
