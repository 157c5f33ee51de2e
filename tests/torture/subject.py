"""What is tortured: a whole run of two stages on tiny models, through the command line's door.

The student has dropout, so that a random state that is not restored shows in its weights; its
batches are accumulated, its checkpoints pruned, and it is evaluated and reported on.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent.parent
OUTPUT = "run"
"""The name of the run directory in a trial's folder."""


def write_workspace(folder: Path) -> Path:
    """Models, text and a recipe; returns the recipe."""
    small = runpy.run_path(str(TESTS / "workspace.py"))
    folder.mkdir(parents=True)
    student = small["make_model"](layers=1, seed=2)
    student.config.attention_dropout = 0.2
    small["save"](folder / "teacher", small["make_model"](layers=2, seed=1))
    small["save"](folder / "student", student)
    texts = small["sentences"](22)
    small["write_rows"](folder / "train.jsonl", [{"text": text} for text in texts[:20]])
    small["write_rows"](folder / "heldout.jsonl", [{"text": text} for text in texts[20:]])
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(small["RECIPE"], folder), sort_keys=False))
    return recipe


def _recipe(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe of the other tests, in two stages of 6 and 2 steps, to be copied elsewhere."""
    values = {key: value for key, value in given.items() if key not in ("objectives", "train")}
    train = {**given["train"], "tokens_per_step": 64, "save_every": 2, "keep_checkpoints": 2}
    output, task = given["objectives"][0], {"kind": "task", "weight": 0.5}
    values["output"] = OUTPUT
    for name in ("teacher", "student"):
        values[name] = {**values[name], "model": str(folder / name)}
    values["data"] = {
        "sources": [{"kind": "jsonl", "path": str(folder / "train.jsonl")}],
        "heldout": [{"kind": "jsonl", "path": str(folder / "heldout.jsonl")}],
        "sequence_length": 32,
        "over_long": "split",
    }
    values["stages"] = [
        {"name": "first", "objectives": [output], "train": {**train, "steps": 6}},
        {
            "name": "second",
            "objectives": [task, {**output, "weight": 0.5}],
            "train": {**train, "steps": 2, "learning_rate": 1.0e-3},
        },
    ]
    values["evaluate"] = {"speed_seconds": 0, "samples": 0}
    return values


def distil(recipe: Path) -> Callable[[], int]:
    """The command that begins or continues the run beside a recipe; it returns its exit code."""

    def work() -> int:
        from nexus.stopping import PROCESS

        PROCESS.listen()  # as the command does before it imports anything else
        from nexus import cli

        sys.argv = ["nexus", "distill", str(recipe)]
        cli.main()
        return 0

    return work


def warm(modules: list[str]) -> None:
    """Import what a run imports, also late, so that a forked child finds it there.

    No curves are drawn from here on: they would be a third of the time of such a run.
    """
    report: Any = importlib.import_module("nexus.report.build")
    assert callable(report.curves)
    report.curves = lambda *_: []
    for name in modules:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # made on the spot by its library, not to be found by name
