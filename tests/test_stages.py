"""Several stages in a row, stopped anywhere."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus.errors import Interrupted
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.rundir import RunDirectory

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


def distil(recipe: Path, *changes: str, **arguments: Any) -> RunDirectory:
    return run(load(recipe, changes), recipe.parent, **arguments)


def weights(run: RunDirectory) -> str:
    return hashlib.sha256((run.student / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def staged(recipe: Path) -> Path:
    values = yaml.safe_load(recipe.read_text())
    train = {**values.pop("train"), "steps": 3, "lora": {"rank": 2, "dropout": 0.1}}
    output = values.pop("objectives")[0]
    task = {"kind": "task", "weight": 0.5}
    values["stages"] = [
        {"name": "first", "objectives": [output], "train": train},
        {"name": "second", "objectives": [task, {**output, "weight": 0.5}], "train": train},
    ]
    path = recipe.with_name("staged.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_stop_anywhere_in_several_stages_changes_nothing(staged: Path) -> None:
    """With adapters and dropout, whose random numbers have to go on where they stopped."""
    whole = weights(distil(staged, "output=undisturbed"))
    for steps in (1, 2, 3, 4, 5):
        where = "training was done" if steps == 3 else f"step {steps % 3} of 3"
        with pytest.raises(Interrupted, match=where):
            distil(staged, f"output=stopped{steps}", stopping=SMALL["StopAfter"](steps))
        said: list[str] = []
        directory = distil(staged, f"output=stopped{steps}", say=said.append)
        assert weights(directory) == whole, steps
        assert "measuring the untrained student on the held-out documents" not in said
        lines = (directory.path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 1, 2, 3]
