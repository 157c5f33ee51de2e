"""Looks at held-out text are noted and change nothing, stopped and continued or not."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import Interrupted
from nexus.looks import LOOKS, plan
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation
from nexus.rundir import RunDirectory
from nexus.training.settings import TrainSpec

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
NOTED = {"heldout_kl", "heldout_agreement", "heldout_nll"}


def distil(recipe: Path, *changes: str, **arguments: Any) -> RunDirectory:
    return run(load(recipe, changes), recipe.parent, **arguments)


def weights(run: RunDirectory) -> str:
    return hashlib.sha256((run.student / "model.safetensors").read_bytes()).hexdigest()


def noted(run: RunDirectory) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {name: line[name] for name in NOTED & line.keys()} for line in lines}


def test_a_look_changes_nothing_and_ends_where_the_evaluation_begins(tmp_path: Path) -> None:
    recipe = SMALL["write_workspace"](tmp_path / "workspace")
    # Dropout, whose random numbers a look must leave alone.
    lora = "train.lora={rank: 2, dropout: 0.2}"
    without = distil(recipe, lora, "output=without", "train.heldout_every=0")
    assert not any(noted(without).values())
    every = "train.heldout_every=2"
    looked = distil(recipe, lora, "output=looked", every)
    assert weights(looked) == weights(without)
    found = noted(looked)
    assert [step for step in found if found[step]] == [2, 4]
    assert found[4].keys() == NOTED
    evaluation = Evaluation.load(looked.path)
    assert evaluation is not None and evaluation.heldout is not None
    trained = evaluation.heldout.trained
    assert trained.forward_kl is not None
    assert found[4]["heldout_kl"] == pytest.approx(trained.forward_kl.value, rel=1e-3)
    assert found[4]["heldout_nll"] == pytest.approx(trained.nll.value, rel=1e-3)
    with pytest.raises(Interrupted):
        distil(recipe, lora, "output=stopped", every, stopping=SMALL["StopAfter"](1))
    stopped = distil(recipe, lora, "output=stopped", every)
    assert weights(stopped) == weights(without)
    assert noted(stopped) == found


@pytest.mark.parametrize(
    ("steps", "tokens", "length"),
    [(180, 2048, 512), (4, 256, 128), (1000, 131072, 4096), (3, 9999, 99)],
)
def test_auto_takes_a_twelfth_of_the_tokens_at_most(steps: int, tokens: int, length: int) -> None:
    every, rows = plan(TrainSpec(steps=steps, tokens_per_step=tokens), length)
    count = steps // every if every else 0
    assert count <= LOOKS
    assert count * rows * length <= steps * tokens / 12
    assert bool(count) == (steps * tokens >= 12 * length)
