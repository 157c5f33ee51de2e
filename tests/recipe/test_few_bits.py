"""Rates that fit what learns, and a stage that comes after all others."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.recipe.few_bits import RATES, Quantize
from nexus.recipe.schema import Recipe

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
RECIPE: dict[str, Any] = SMALL["SKELETON"] | {"train": {"steps": 10, "tokens_per_step": 128}}
SHORT = {"steps": 4, "tokens_per_step": 192}


def recipe(**distill: Any) -> Recipe:
    return Recipe.parse({**RECIPE, "quantize": {"scheme": "int4", "distill": distill}}, "recipe")


@pytest.mark.parametrize("what", ["scales", "weights"])
def test_what_learns_has_a_rate_of_its_own_and_no_decay(what: Any) -> None:
    stage = recipe(parameters=what, train=SHORT).few_bits_stage
    assert stage is not None
    assert stage.train.learning_rate == RATES[what] and stage.train.weight_decay == 0
    given = recipe(parameters=what, train={**SHORT, "learning_rate": 0.5, "weight_decay": 0.1})
    assert given.few_bits_stage is not None
    assert given.few_bits_stage.train.learning_rate == 0.5
    assert given.few_bits_stage.train.weight_decay == 0.1
    assert Recipe.parse(given.model_dump(mode="json"), "recipe") == given


def test_it_follows_the_student_as_it_was_after_all_stages() -> None:
    asked = recipe(train=SHORT)
    stage = asked.few_bits_stage
    assert stage is not None and asked.all_training == (*asked.all_stages, stage)
    assert stage.teacher == "previous"
    (objective,) = stage.objectives
    assert objective.model_dump()["divergence"] == "forward_kl"
    assert objective.model_dump()["temperature"] == 1.0


def test_without_there_is_no_such_stage() -> None:
    plain = Recipe.parse({**RECIPE, "quantize": {"scheme": "int4"}}, "recipe")
    assert plain.few_bits_stage is None and plain.all_training == plain.all_stages
    assert Recipe.parse(RECIPE, "recipe").few_bits_stage is None
    assert Quantize(scheme="int4").distill is None


def test_no_other_stage_may_have_its_name() -> None:
    stages = [{"name": "quantize", "objectives": [{"kind": "output"}], "train": SHORT}]
    values = {key: value for key, value in RECIPE.items() if key not in ("objectives", "train")}
    values |= {"stages": stages, "quantize": {"scheme": "int4", "distill": {"train": SHORT}}}
    with pytest.raises(UsageError, match="give the stage another name"):
        Recipe.parse(values, "recipe")
    assert Recipe.parse({**values, "quantize": {"scheme": "int4"}}, "recipe").all_stages
