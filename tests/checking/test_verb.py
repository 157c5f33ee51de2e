"""nexus check as a user starts it: tables, one JSON object, and one line for a mistake."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.checking.verb import run_check
from nexus.errors import NexusError, UsageError
from nexus.proofs import Check

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path)
    return path


def silent(text: str) -> None:
    """What begins is not of interest."""


def test_json_is_one_object(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_check(recipe, (), True, silent)
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    data = values.pop("data")
    assert Check.parse(values).complete
    assert sum(each["documents"] for each in data["lengths"]) == data["documents"]
    assert sum(data["tasks"].values()) == data["documents"]
    assert data["targets"] <= data["tokens"]
    assert {source["split"] for source in data["sources"]} == {"train", "heldout"}


def test_a_failure_is_told_in_a_table_and_in_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NexusError) as caught:
        run_check(recipe, ("teacher.model=student", "student.model=teacher"), False, silent)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("failed: the teacher predicts held-out text better")
    assert not isinstance(caught.value, UsageError)
    out = capsys.readouterr().out
    assert "x failed" in out and "What was proved before training" in out


def test_what_does_not_fit_is_one_object_too(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("available_bytes", "held_bytes"):
        monkeypatch.setattr(f"nexus.checking.fit.{name}", lambda _: 0)
    with pytest.raises(NexusError, match="fits in memory"):
        run_check(recipe, (), True, silent)
    assert "data" not in json.loads(capsys.readouterr().out)


def other_vocabulary(folder: Path) -> None:
    tokenizer = SMALL["make_tokenizer"]()
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder / "student")


def without_tokenizer(folder: Path) -> None:
    for file in (folder / "teacher").glob("*token*"):
        file.unlink()


def empty_held_out(folder: Path) -> None:
    (folder / "heldout.jsonl").write_text("")


def no_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (other_vocabulary, "tokenizer"),
        (without_tokenizer, "tokenizer"),
        (empty_held_out, "heldout"),
        (no_recipe, "recipe.yaml"),
    ],
)
def test_a_mistake_is_named(recipe: Path, spoil: Any, named: str) -> None:
    spoil(recipe.parent)
    with pytest.raises(UsageError, match=named):
        run_check(recipe, (), False, silent)
