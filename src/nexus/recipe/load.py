"""YAML → Recipe, with overrides; and back to YAML, with every default written out."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nexus.errors import UsageError
from nexus.recipe.schema import Recipe
from nexus.spec import nearest


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=c` overrides to it.

    Raises:
        UsageError: for a missing file, broken YAML, and every mistake in the recipe at once.
    """
    if not path.is_file():
        raise UsageError(
            f"recipe '{path}' does not exist. `nexus quickstart DIR` writes one to begin with"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_OneKeyOnce)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no recipe: expected keys such as teacher, student, data")
    if odd := [key for key in values if not isinstance(key, str)]:
        raise UsageError(
            f"{path}: unknown key {odd[0]!r}{nearest(str(odd[0]), Recipe.model_fields)}"
        )
    for override in overrides:
        _apply(values, override)
    return Recipe.parse(values, where=str(path))


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; in the same folder, the same run."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys in which two recipes differ, with both values, `output` aside."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [key for key in {**before, **after} if key != "output"]
    return [
        f"{key}: {before.get(key)!r} there, {after.get(key)!r} now"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def json_schema() -> str:
    """The JSON Schema of recipes, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)


class _OneKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'{key_node.value}' stands here twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise UsageError(f"--set '{override}' is not of the form key.subkey=value")
    try:
        value = yaml.load(text, Loader=_OneKeyOnce)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"--set '{override}': the value is not valid YAML") from None
    place: Any = values
    for parent in parents:
        place = _step_into(place, parent, override)
    place[_key(place, last, override)] = value


def _step_into(place: Any, key: str, override: str) -> Any:
    """What stands at `key`, copied first: YAML can put one thing in two places (&a, *a)."""
    at: Any = _key(place, key, override)
    inner = place[at] if isinstance(place, list) or at in place else {}
    place[at] = copy.copy(inner)
    return place[at]


def _key(place: Any, key: str, override: str) -> int | str:
    if isinstance(place, list):
        return _index(place, key, override)
    if isinstance(place, dict):
        return key
    raise UsageError(f"--set '{override}': there is nothing inside the value before '{key}'")


def _index(place: list[Any], key: str, override: str) -> int:
    if not (key.isascii() and key.isdigit() and int(key) < len(place)):
        raise UsageError(
            f"--set '{override}': '{key}' must be a number below {len(place)}, counted from 0"
        )
    return int(key)


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
