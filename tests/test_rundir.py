"""A run directory is continued by the same recipe only, and never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus import durable
from nexus.errors import UsageError
from nexus.lock import acquire
from nexus.recipe.load import load
from nexus.recipe.relocate import relocate
from nexus.recipe.schema import Recipe
from nexus.rundir import RunDirectory, put_aside


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


def begin(path: Path, seed: int = 0) -> RunDirectory:
    return RunDirectory.open(path, recipe(seed), path.parent)


def test_a_new_run_begins_with_its_resolved_recipe(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "runs" / "a", recipe(), tmp_path)
    own = load(run.recipe_file)
    assert relocate(own, run.path, tmp_path) == recipe().model_copy(update={"output": "runs/a"})
    assert run.begun_here and not run.is_finished


def test_the_recipe_of_a_run_continues_it_where_it_lies(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    own = load(run.recipe_file)
    assert (run.path / own.output).resolve() == run.path
    assert own.data.sources[0].label == "../train.jsonl"
    assert run.differences(own, run.path) == [] == run.differences(recipe(), tmp_path)
    moved = tmp_path / "elsewhere" / "a"
    moved.parent.mkdir()
    run.path.rename(moved)
    assert RunDirectory(moved).differences(recipe(), moved.parent) == []


def test_the_same_recipe_continues_and_touches_nothing(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    (run.path / "metrics.jsonl").write_text("kept")
    before = run.recipe_file.stat().st_mtime_ns
    again = begin(tmp_path / "a")
    again.write_recipe(recipe(), tmp_path)
    assert again == run and not again.begun_here
    assert (run.path / "metrics.jsonl").read_text() == "kept"
    assert run.recipe_file.stat().st_mtime_ns == before


def test_the_keys_of_another_recipe_are_known_with_both_values(tmp_path: Path) -> None:
    run = begin(tmp_path / "a", seed=3)
    assert run.differences(recipe(seed=4), tmp_path) == [("seed", 3, 4)]
    assert [found.key for found in run.differences(recipe(seed=3), tmp_path.parent)] == [
        "data.sources.0.path"
    ]


def test_what_was_left_open_is_what_it_came_to_when_the_run_began(tmp_path: Path) -> None:
    run, left_open = begin(tmp_path / "a"), recipe()
    assert left_open.train is not None and left_open.train.compile == "auto"
    train = left_open.train.model_copy(update={"compile": False})
    run.write_recipe(left_open.model_copy(update={"train": train}), tmp_path)
    settled = run.settled(left_open)
    assert settled.train == train and run.differences(settled, tmp_path) == []


def test_an_earlier_run_is_kept_aside(tmp_path: Path) -> None:
    for seed in (3, 4, 5):
        with acquire(tmp_path / "a") as lock:
            aside = put_aside(tmp_path / "a", lock)
            assert (aside is None) == (seed == 3)
            begin(tmp_path / "a", seed)
            (tmp_path / "a" / "metrics.jsonl").write_text(str(seed))
    kept = [path for path in tmp_path.iterdir() if path.name != "a"]
    assert sorted(load(path / "recipe.yaml").seed for path in kept) == [3, 4]
    assert sorted((path / "metrics.jsonl").read_text() for path in kept) == ["3", "4"]
    assert not list(tmp_path.glob("*/.lock"))


def test_a_link_to_a_run_stays_when_the_run_is_put_aside(tmp_path: Path) -> None:
    begin(tmp_path / "a", seed=3)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with acquire(tmp_path / "link") as lock:
        aside = put_aside(tmp_path / "link", lock)
        assert aside is not None and load(aside / "recipe.yaml").seed == 3
        begin(tmp_path / "link", seed=4)
    assert load(tmp_path / "a" / "recipe.yaml").seed == 4


@pytest.mark.parametrize("steps", [(), (2,), (8, 16, 9)])
def test_a_run_has_reached_its_newest_checkpoint(tmp_path: Path, steps: tuple[int, ...]) -> None:
    run = begin(tmp_path / "a")
    for step in steps:
        (run.path / "checkpoints" / "one" / f"step-{step:06d}").mkdir(parents=True)
    (run.path / "checkpoints" / "two" / "quarantine-step-000099").mkdir(parents=True)
    assert run.reached(("one", "two")) == (("one", max(steps)) if steps else None)


def test_what_a_writer_left_half_is_swept(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    (run.path / ".tmp-environment.json").write_text("{")
    begin(tmp_path / "a")
    assert {path.name for path in run.path.iterdir()} == {"recipe.yaml"}


def test_a_report_of_a_run_that_goes_on_is_no_sign_of_its_end(tmp_path: Path) -> None:
    """It was asked for while the run was stopped; the run would be taken for finished too early."""
    run = begin(tmp_path / "a")
    run.write("report.html", "so far")
    again = begin(tmp_path / "a")
    again.write_json("evaluation.json", {})
    assert not again.is_finished


@pytest.mark.parametrize("text", ["{", "[1", "null", '"text"'])
def test_a_damaged_environment_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    run = begin(tmp_path / "a")
    assert run.environment == {}
    run.write("environment.json", text)
    with pytest.raises(UsageError, match=r"environment.json is damaged(.|\n)*--fresh"):
        assert run.environment


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UsageError, match="holds no run"):
        begin(tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        begin(tmp_path / "a")


def finish(path: Path) -> RunDirectory:
    """A run with everything that a finished one has."""
    run = begin(path)
    with durable.directory(run.student) as aside:
        (aside / "model.safetensors").write_bytes(b"weights")
    run.write_json("evaluation.json", {})
    durable.write(run.student / "README.md", "card")
    run.write("report.html", "<html>\n</html>\n")
    return run


def test_a_run_is_finished_when_all_of_it_is_there(tmp_path: Path) -> None:
    assert finish(tmp_path / "a").is_finished


@pytest.mark.parametrize(
    "name", ["student/model.safetensors", "student/MANIFEST.json", "student/README.md",
             "evaluation.json", "report.html"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_a_run_is_not_finished_while_something_is_not_whole(
    tmp_path: Path, name: str, how: str
) -> None:
    run = finish(tmp_path / "a")
    file = run.path / name
    content = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    card = name.endswith("README.md") and how != "gone"  # is written by the reader's own hand
    assert run.is_finished == card


def test_files_are_replaced_whole_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    run.write_json("environment.json", {"name": "first, and longer"})
    run.write_json("environment.json", {"name": "ü"})
    assert json.loads((run.path / "environment.json").read_text(encoding="utf-8")) == {"name": "ü"}
    assert {path.name for path in run.path.iterdir()} == {"recipe.yaml", "environment.json"}


def test_an_empty_directory_is_welcome(tmp_path: Path) -> None:
    begin(tmp_path)
    assert (tmp_path / "recipe.yaml").exists()


def test_a_run_whose_recipe_is_broken_is_not_guessed_at(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    run.recipe_file.write_text("a: [")
    with pytest.raises(UsageError, match="not valid YAML"):
        begin(tmp_path / "a").differences(recipe(), tmp_path)
