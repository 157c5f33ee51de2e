"""What counts as another outcome."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

OUTCOME = runpy.run_path(str(Path(__file__).with_name("outcome.py")))
outcome, differences = OUTCOME["outcome"], OUTCOME["differences"]


def write_run(folder: Path, seconds: float) -> Path:
    checkpoint = folder / "checkpoints" / "train" / "step-000002"
    for made in (checkpoint, folder / "student"):
        made.mkdir(parents=True)
    (checkpoint / "optimizer.safetensors").write_bytes(b"moments")
    (folder / "student" / "model.safetensors").write_bytes(b"weights")
    line = {"step": 1, "loss": 0.5, "seconds": seconds}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "evaluation.json").write_text(json.dumps({"heldout": {"value": 1.0}}))
    (folder / "report.html").write_text(f"took {seconds}")
    return folder


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def add_checkpoints(stage: Path) -> None:
    for step in (0, 1):
        (stage / f"step-00000{step}").mkdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "student/model.safetensors": lambda run: change(
        run / "student" / "model.safetensors", "weights", "weightz"
    ),
    "checkpoints/train/step-000002/optimizer.safetensors": lambda run: (
        run / "checkpoints" / "train" / "step-000002" / "optimizer.safetensors"
    ).unlink(),
    "metrics.jsonl:1": lambda run: change(run / "metrics.jsonl", "0.5", "0.6"),
    "metrics.jsonl:2": lambda run: change(run / "metrics.jsonl", "}\n", "}\n{}\n"),
    "evaluation.json:heldout": lambda run: change(run / "evaluation.json", "1.0", "1.1"),
    "report.html": lambda run: (run / "report.html").unlink(),
    "checkpoints/train": lambda run: add_checkpoints(run / "checkpoints" / "train"),
    ".tmp-recipe.yaml": lambda run: (run / ".tmp-recipe.yaml").touch(),
    "checkpoints/train/.del-step-000001": lambda run: (
        run / "checkpoints" / "train" / ".del-step-000001"
    ).mkdir(),
}


def test_times_are_no_difference(tmp_path: Path) -> None:
    one, two = (outcome(write_run(tmp_path / str(n), seconds=n)) for n in (1, 2))
    assert differences(one, two) == []


@pytest.mark.parametrize("name", CHANGES)
def test_everything_else_is_one_and_is_named(tmp_path: Path, name: str) -> None:
    whole = outcome(write_run(tmp_path / "whole", seconds=1))
    run = write_run(tmp_path / "changed", seconds=1)
    CHANGES[name](run)
    (found,) = differences(whole, outcome(run))
    assert found.startswith(f"{name}: ")
