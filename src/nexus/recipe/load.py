"""YAML → Recipe, with overrides; and back to YAML, with every default written out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nexus.errors import UsageError
from nexus.recipe.read import read
from nexus.recipe.schema import Recipe
from nexus.spec import nearest, shown


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=c` overrides to it.

    Raises:
        UsageError: for a missing file, broken YAML, and every mistake in the recipe at once.
    """
    values = read(path, overrides)
    if odd := [key for key in values if not isinstance(key, str)]:
        raise UsageError(
            f"{path}: unknown key {shown(odd[0])}{nearest(shown(odd[0]), Recipe.model_fields)}"
        )
    return Recipe.parse(values, where=str(path))


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; in the same folder, the same run."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


class Difference(NamedTuple):
    """A key of which two recipes say different things; None where one says nothing."""

    key: str
    before: Any
    now: Any


def differences(old: Recipe, new: Recipe) -> list[Difference]:
    """The keys in which two recipes differ, with both values, `output` aside."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [key for key in {**before, **after} if key != "output"]
    found = (Difference(key, before.get(key), after.get(key)) for key in keys)
    return [difference for difference in found if difference.before != difference.now]


def settled(recipe: Recipe, by: Recipe) -> Recipe:
    """`recipe` with what `by` says in the place of every `auto`."""
    values, other = (each.model_dump(mode="json", exclude_none=True) for each in (recipe, by))
    return Recipe.parse(_settled(values, other), where="recipe")


def json_schema() -> str:
    """The JSON Schema of recipes, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = {str(index): value for index, value in enumerate(values)}.items()
    else:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _settled(values: Any, other: Any) -> Any:
    match values, other:
        case dict(), dict():
            return {key: _settled(value, other.get(key)) for key, value in values.items()}
        case list(), list():
            pairs = itertools.zip_longest(values, other[: len(values)])
            return [_settled(value, its) for value, its in pairs]
        case "auto", str() | bool() | int() | float():
            return other
    return values
