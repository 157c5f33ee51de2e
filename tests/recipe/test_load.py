"""YAML to recipe and back; overrides; differences between two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus.errors import UsageError
from nexus.recipe.load import differences, dump, json_schema, load
from nexus.recipe.schema import Recipe


@pytest.fixture
def file(tmp_path: Path, values: dict[str, Any]) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_resolved_copy_is_the_same_recipe(file: Path) -> None:
    recipe = load(file)
    file.write_text(dump(recipe))
    assert load(file) == recipe


def test_every_default_is_written_out(file: Path) -> None:
    written = yaml.safe_load(dump(load(file)))
    assert written["train"]["clip_gradient"] == 1.0
    assert written["data"]["over_long"] == "error"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda recipe: recipe.seed == 7),
        ("train.steps=3", lambda recipe: recipe.all_stages[0].train.steps == 3),
        ("objectives.1.weight=0.25", lambda recipe: recipe.objectives[1].weight == 0.25),
        ("evaluate.samples=0", lambda recipe: recipe.evaluate.samples == 0),
        ("data.weights={math: 1.0}", lambda recipe: recipe.data.weights == {"math": 1.0}),
        ("output=a=b", lambda recipe: recipe.output == "a=b"),
    ],
)
def test_overrides_reach_any_value(file: Path, override: str, read: Any) -> None:
    assert read(load(file, [override]))


@pytest.mark.parametrize(
    "override", ["steps", "=3", "train.steps.x=1", "objectives.9.weight=1", "train.=1", "seed={"]
)
def test_an_override_that_cannot_be_is_quoted(file: Path, override: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(file, [override])
    assert override in str(caught.value)


def test_a_misspelt_override_is_an_error_like_any_key(file: Path) -> None:
    with pytest.raises(UsageError, match="'steps'"):
        load(file, ["train.step=3"])


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00", "seed: 1\nseed: 2"])
def test_what_is_no_recipe_is_named_by_its_file(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.yaml"):
        load(file)


def test_a_missing_file_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quickstart"):
        load(tmp_path / "none.yaml")


def test_differences_show_both_values_and_leave_the_output_aside(values: dict[str, Any]) -> None:
    one = Recipe.parse(values)
    values["train"]["steps"] = 11
    values["output"] = "elsewhere"
    (line,) = differences(one, Recipe.parse(values))
    assert "train.steps" in line and "10" in line and "11" in line


def test_the_schema_is_json_and_knows_every_kind() -> None:
    text = json_schema()
    assert json.loads(text)["additionalProperties"] is False
    kinds = ("local", "layers", "pretrained", "scratch", "jsonl", "parquet", "hub", "output")
    assert all(f'"{kind}"' in text for kind in kinds)
