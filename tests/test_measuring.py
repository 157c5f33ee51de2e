"""What a run measures of its student, and when it measures nothing."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

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
