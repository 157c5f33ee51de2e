"""nexus evaluate as a user starts it: one JSON object, one table, one line for a mistake."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nexus import cli
from nexus.contrasts import Contrasts
from nexus.errors import UsageError
from nexus.results import Measured

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
COMMAND = (sys.executable, "-m", "nexus", "evaluate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workspace")
    SMALL["write_workspace"](path)
    items = [{"id": "a", "question": "Who?", "choices": ["I", "you"], "label": 7}]
    SMALL["write_rows"](path / "wrong.jsonl", items)
    return path


def said(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=folder, timeout=240
    )


def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    found = said(
        folder, "student", "--teacher", "teacher", "--text", "heldout.jsonl", "--json",
        "--speed-seconds", "0", "--rollouts", "0", "--output", "kept",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    measured = Measured.parse(json.loads(found.stdout))
    assert measured.model.name == "student" and measured.teacher
    assert measured.evaluation.heldout and measured.evaluation.heldout.trained.forward_kl
    assert "measuring student on the text" in found.stderr


def test_two_are_compared_in_a_table(folder: Path) -> None:
    options = ("--text", "heldout.jsonl", "--compare")
    found = said(folder, "student", "teacher", *options)
    assert found.returncode == 0, found.stderr
    assert "A = student" in found.stdout and "B = teacher" in found.stdout
    found = said(folder, "--compare", "student", "teacher", "--text", "heldout.jsonl", "--json")
    assert Contrasts.parse(json.loads(found.stdout)).rows[0].measure == "text: nll"


def test_a_mistake_is_one_line(folder: Path) -> None:
    found = said(folder, "student", "--tasks", "wrong.jsonl")
    assert found.returncode == 2 and not found.stdout
    (line,) = found.stderr.splitlines()
    assert "wrong.jsonl:1" in line and "must be 0 to 1" in line


def test_how_many_models_are_named() -> None:
    with pytest.raises(UsageError, match="--compare needs two"):
        cli.evaluate(("a",), compare=True)
    with pytest.raises(UsageError, match="give one, or two with --compare"):
        cli.evaluate(("a", "b"))
    with pytest.raises(UsageError, match="no model is named"):
        cli.evaluate(())
