"""A recipe that is moved names the same files."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from nexus.recipe.load import dump, load
from nexus.recipe.relocate import relocate
from nexus.recipe.schema import Recipe


@pytest.fixture
def recipe(tmp_path: Path, values: dict[str, Any]) -> Recipe:
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    values["teacher"]["model"] = "models/teacher"
    values["student"] = {"kind": "scratch", "config": "models/small.json"}
    values["data"]["sources"] = [
        {"kind": "jsonl", "path": "data/../train.jsonl"},
        {"kind": "parquet", "path": str(tmp_path / "absolute.parquet")},
        {"kind": "dataset", "path": "~/texts"},
        {"kind": "hub", "name": "some/texts"},
    ]
    (tmp_path / "data").mkdir()
    return Recipe.parse(values)


def places(recipe: Recipe, folder: Path) -> list[str]:
    student: Any = recipe.student
    named = [recipe.teacher.model, str(student.config), recipe.output]
    named += [source.path for source in recipe.data.sources if source.kind != "hub"]
    return [os.path.normpath(folder / Path(name).expanduser()) for name in named]


def test_every_path_leads_to_the_same_file_from_anywhere(recipe: Recipe, tmp_path: Path) -> None:
    """To see it fail, leave a key out of `PATHS`."""
    (tmp_path / "runs" / "one").mkdir(parents=True)
    folders = [tmp_path, tmp_path / "runs" / "one", tmp_path / "elsewhere", tmp_path.parent]
    for old, new in itertools.product(folders, repeat=2):
        there = relocate(recipe, tmp_path, old)
        moved = relocate(there, old, new)
        assert places(moved, new) == places(recipe, tmp_path)
        assert moved == relocate(recipe, tmp_path, new)


def test_names_and_paths_of_everywhere_stay(recipe: Recipe, tmp_path: Path) -> None:
    moved = relocate(recipe, tmp_path, tmp_path / "elsewhere").data.sources
    assert [source.label for source in moved[1:]] == [
        source.label for source in recipe.data.sources[1:]
    ]
    named = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"model": "owner/teacher"})}
    )
    assert relocate(named, tmp_path, tmp_path / "elsewhere").teacher.model == "owner/teacher"


def test_a_link_at_the_end_of_a_path_keeps_its_name(tmp_path: Path, values: dict[str, Any]) -> None:
    """What it points to may be exchanged; a folder that is a link leads where `..` would not."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "real" / "rows")
    moved = relocate(Recipe.parse(values), tmp_path, tmp_path / "link" / "run")
    assert moved.data.sources[0].label == "../../train.jsonl"


def test_a_run_of_two_folders_that_move_together_stays_the_same(
    recipe: Recipe, tmp_path: Path
) -> None:
    file = tmp_path / "models" / "recipe.yaml"
    file.write_text(dump(relocate(recipe, tmp_path, file.parent)))
    (tmp_path / "inside").mkdir()
    for name in ("models", "data"):
        (tmp_path / name).rename(tmp_path / "inside" / name)
    read = load(tmp_path / "inside" / "models" / "recipe.yaml")
    inside = tmp_path / "inside"
    assert relocate(read, inside / "models", inside) == relocate(
        recipe.model_copy(update={"output": "runs/one"}), inside, inside
    )


def test_kept_scores_stay_where_they_are(tmp_path: Path, values: dict[str, Any]) -> None:
    """To see it fail: leave `scores` out of relocate.PATHS."""
    student = {"kind": "pruned", "target": 0.5, "scores": "kept/scores"}
    moved = relocate(Recipe.parse(values | {"student": student}), tmp_path, tmp_path / "run")
    assert moved.student.kind == "pruned" and moved.student.scores == Path("../kept/scores")
