"""YAML to recipe and back; overrides; differences between two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from nexus.errors import UsageError
from nexus.recipe.load import differences, dump, json_schema, load, settled
from nexus.recipe.schema import Recipe
from nexus.spec import Spec


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


def test_an_override_begins_what_is_not_there_yet(file: Path) -> None:
    assert load(file, ["train.lora.rank=3"]).all_stages[0].train.lora.rank == 3


def test_an_override_of_one_stage_leaves_another_alone_that_shares_its_text(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    """YAML's &anchors put one mapping in two places."""
    shared = {"objectives": values.pop("objectives"), "train": values.pop("train")}
    values["stages"] = [{"name": name, **shared} for name in ("one", "two")]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert "&id001" in path.read_text()
    first, second = load(path, ["stages.0.train.steps=3", "stages.1.objectives.1.weight=7"]).stages
    assert (first.train.steps, second.train.steps) == (3, 10)
    assert (first.objectives[1].weight, second.objectives[1].weight) == (0.5, 7)


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "2024-13-45", "[" * 1500, "!!python/name:os.x"])
def test_a_value_that_is_no_yaml_is_quoted(file: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--set 'seed=.*not valid YAML"):
        load(file, [f"seed={text}"])


def test_a_misspelt_override_is_an_error_like_any_key(file: Path) -> None:
    with pytest.raises(UsageError, match="'steps'"):
        load(file, ["train.step=3"])


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "",
        "\x00",
        "seed: 1\nseed: 2",
        "train: {steps: 1, steps: 2}",
        "seed: 2024-13-45",
        "1: x",
        "[" * 1500,
        "a: !!python/object/apply:os.getcwd []",
    ],
)
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
    assert differences(one, Recipe.parse(values)) == [("train.steps", 10, 11)]


def test_a_term_more_or_less_is_a_difference(values: dict[str, Any]) -> None:
    one = Recipe.parse(values)
    term = values["objectives"].pop()
    found = differences(one, Recipe.parse(values))
    assert ("objectives.1.kind", term["kind"], None) in found
    assert not differences(one, one)


def test_what_is_left_out_of_the_resolved_copy_is_what_is_absent_by_default() -> None:
    """The copy leaves out what is null, which must then be what null is read as."""
    for spec in specs(Recipe):
        for name, field in spec.model_fields.items():
            if type(None) in get_args(field.annotation):
                assert field.default is None, f"{spec.__name__}.{name}"


def specs(annotation: Any) -> set[type[Spec]]:
    """Every spec that a recipe can hold."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        fields = annotation.model_fields.values()
        return {annotation}.union(*(specs(field.annotation) for field in fields))
    return set().union(*(specs(argument) for argument in get_args(annotation)))


def kinds() -> set[str]:
    return {s.model_fields["kind"].default for s in specs(Recipe) if "kind" in s.model_fields}


def test_the_schema_names_every_kind_and_every_key() -> None:
    schema = json.loads(json_schema())
    assert {"local", "layers", "pretrained", "scratch", "jsonl", "hub", "output"} <= kinds()
    parts = {"Recipe": schema, **schema["$defs"]}
    named = {part["properties"].get("kind", {}).get("const") for part in parts.values()}
    assert named - {None} == kinds()
    for spec in specs(Recipe):
        assert parts[spec.__name__]["properties"].keys() == spec.model_fields.keys()
        assert parts[spec.__name__]["additionalProperties"] is False


def test_the_schema_is_whole() -> None:
    """Every reference leads somewhere, and every union is told apart by kind."""
    schema = json.loads(json_schema())

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            for reference in part.get("discriminator", {}).get("mapping", {}).values():
                assert reference.removeprefix("#/$defs/") in schema["$defs"]
            if "type" in part and isinstance(part["type"], str):
                assert part["type"] in {
                    *("object", "array", "string", "number", "integer", "boolean", "null"),
                }
        for inner in part.values() if isinstance(part, dict) else part:
            if isinstance(inner, dict | list):
                walk(inner)

    walk(schema)
    assert set(schema["required"]) == {"output", "teacher", "student", "data"}


def test_what_is_settled_stands_in_the_place_of_auto_alone(values: dict[str, Any]) -> None:
    values["teacher"]["dtype"] = "auto"
    left_open = Recipe.parse(values)
    values["teacher"]["dtype"] = "bfloat16"
    values["train"] |= {"compile": True, "steps": 7}
    came_to = Recipe.parse(values)
    both = settled(left_open, came_to)
    assert differences(both, came_to) == [("train.steps", 10, 7)]
    assert settled(left_open, left_open) == left_open
    assert settled(came_to, left_open) == came_to
