"""What a stage costs in passes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from nexus.milestones import passes
from nexus.recipe.load import load
from nexus.recipe.schema import Recipe

CASCADE = runpy.run_path(str(Path(__file__).with_name("cascading.py")))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load(CASCADE["write_workspace"](tmp_path_factory.mktemp("workspace")))


def test_a_step_is_counted_in_forward_passes(recipe: Recipe) -> None:
    stage = recipe.stages[0]
    adapter = load_lora(stage.train.model_dump())
    recomputed = stage.train.model_copy(update={"gradient_checkpointing": True})
    assert passes(stage) == 3
    assert passes(stage.model_copy(update={"train": recomputed})) == 4
    assert passes(stage.model_copy(update={"train": adapter})) == 2


def load_lora(values: dict[str, object]) -> object:
    from nexus.training.settings import TrainSpec

    return TrainSpec.parse({**values, "lora": {"rank": 2}}, "train")
