"""A recipe's file as plain values, overrides applied. Loads nothing heavy: it is what comes first.

Whether the values make a recipe is for `nexus.recipe.load` to say.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nexus.errors import UsageError, shortened

NOT_OF_ITS_TAG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What PyYAML stumbles with over `!!bool 3`, `!!float ''` and the like, or 2024-13-45."""

LONGEST_NUMBER = 400
"""Characters of an integer. Python itself refuses to write those of more than 4,300 digits."""


def read(path: Path, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """Read a recipe file and apply `a.b=c` overrides to it.

    Raises:
        UsageError: for a missing file, broken YAML, or an override that has no place.
    """
    if not path.is_file():
        raise UsageError(
            f"recipe '{path}' does not exist. `nexus quickstart DIR` writes one to begin with"
        )
    try:
        values = _without_cycles(yaml.load(path.read_text(encoding="utf-8"), Loader=_OneKeyOnce))
    except (yaml.YAMLError, RecursionError, *NOT_OF_ITS_TAG) as error:
        raise UsageError(f"{path} is not valid YAML: {_explained(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no recipe: expected keys such as teacher, student, data")
    for override in overrides:
        _apply(values, override)
    return values


class _OneKeyOnce(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"'{shortened(key_node.value)}' stands here twice: keep one",
                        key_node.start_mark,
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer of a length that messages, which libraries write too, can show."""
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"no number of {len(node.value)} characters is needed here: shorten it",
                node.start_mark,
            )
        return int(super().construct_yaml_int(node))


_OneKeyOnce.add_constructor("tag:yaml.org,2002:int", _OneKeyOnce.construct_yaml_int)


def _without_cycles(value: Any) -> Any:
    """The value itself, unless it is inside itself, which anchors can bring about (&a [*a]).

    Raises:
        RecursionError: it is.
    """
    above, done = set[int](), set[int]()

    def look(at: Any) -> None:
        if not isinstance(at, (dict, list)) or id(at) in done:
            return
        if id(at) in above:
            raise RecursionError
        above.add(id(at))
        for inner in at.values() if isinstance(at, dict) else at:
            look(inner)
        above.discard(id(at))
        done.add(id(at))

    look(value)
    return value


def _explained(error: Exception) -> str:
    """What a parser says, and what to do about it where it does not say."""
    match error:
        case UnicodeDecodeError():
            return f"{error}. Save it as UTF-8"
        case RecursionError():
            return "it is nested too deeply, or within itself. Write it flatter"
        case LookupError() | TypeError() | AttributeError():
            return "a value is none of what its tag says. Leave tags (!!…) out"
    said = str(error)
    lines = "\n".join(map(shortened, said.splitlines()))
    return f"{lines}\nIndent with spaces, not with tabs" if r"'\t'" in said else lines


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    override = shortened(override)
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise UsageError(f"--set '{override}' is not of the form key.subkey=value")
    try:
        value = _without_cycles(yaml.load(text, Loader=_OneKeyOnce))
    except (yaml.YAMLError, RecursionError, *NOT_OF_ITS_TAG):
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
