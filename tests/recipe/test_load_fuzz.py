"""Two thousand generated recipes: each is a recipe or is refused in words, never with a traceback.

What is generated: values of all kinds in all places (huge, negative, not a number, other scripts,
deep nests, lists for mappings), text that YAML has a meaning for (anchors, tags, merges, several
documents), and overrides of all forms. To see it fail, let
`shown` in spec.py return `repr(value)`, or `read` in read.py catch nothing but YAMLError.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.recipe.load import dump, load
from nexus.recipe.schema import Recipe

LONGEST_LINE = 2_000
"""Characters of a line of a message: whatever a value is, it is not written out in full."""

COUNTS = {"values": 1000, "texts": 600, "overrides": 400}

TASK = {"kind": "task", "weight": {"kind": "linear", "start": 0.1, "end": 1}}
JSONL = {"kind": "jsonl", "path": "p", "task": "x", "limit": 3}
SMALL: dict[str, Any] = {
    "output": "o",
    "teacher": {"model": "t"},
    "student": {"kind": "layers", "pick": [0, 2]},
    "data": {"sources": [JSONL]},
    "objectives": [{"kind": "output"}],
    "train": {"steps": 3},
}
STAGE = {"name": "a", "objectives": [TASK], "train": {"steps": 2, "betas": [0.9, 0.95]}}
HUB = {"kind": "hub", "name": "a/b", "streaming": True}
MEMORY = {"kind": "memory", "data": [{"text": "a"}]}
JSD = {
    "kind": "output",
    "divergence": "jsd",
    "beta": 0.5,
    "weight": {"kind": "wsd", "peak": 1, "start": 1},
}
VALID: list[dict[str, Any]] = [
    {**SMALL, "seed": 3, "data": {"sources": [HUB], "heldout": [JSONL], "weights": {"x": 1}}},
    {**SMALL, "student": {"kind": "pretrained", "model": "s"}, "data": {"sources": [MEMORY]}},
    {**SMALL, "train": {"steps": 3, "lora": {"rank": 2}}, "evaluate": {"samples": 1}},
    {**SMALL, "student": {"kind": "scratch", "config": "c"}, "objectives": [JSD, TASK]},
    {**{key: SMALL[key] for key in ("output", "teacher", "student", "data")}, "stages": [STAGE]},
]


class Raw(str):
    """Stands in YAML as it is, and is shown by Hypothesis as it is."""


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a recipe."""
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def nest(depth: int, mapping: bool) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = {"a": inner} if mapping else [inner]
    return inner


WORDS = st.text(max_size=8) | st.sampled_from(
    ["kind", "model", "weight", "steps", "local", "output", "Schritte", "步数", "́", "\u202e", "<<"]
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**63, -(2**64), 1e308, -0.0, math.nan, math.inf])
    | st.sampled_from([Raw("0x" + "f" * 5000), Raw("9" * 400)])
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
) | st.builds(nest, st.integers(1, 90), st.booleans())

CHANGES = st.tuples(
    st.integers(0, 2**16),
    st.sampled_from(["replace", "delete", "rename", "wrap", "insert", "copy"]),
    ANYTHING,
    WORDS,
)

FRAGMENTS = st.sampled_from(
    ["&a ", "*a", "*b ", "<<: *a\n", "!!python/object/apply:os.getcwd []", "!!binary aGk=", "!x ",
     "!!set {a}", "!!omap [a: 1]", "!!timestamp 2024-13-45", "2024-13-45", "!!int x", "!!float ''",
     "!!null 1", "!!bool x", "? [a]\n: b\n", "---\n", "...\n", "%YAML 9.9\n", "\t", "\x00", "\x85",
     "\ufeff", "{", "}", "[", "]", ",", ": ", "- ", "#", "'", '"', "|", ">", "\n", "\\", "@", "`",
     ".nan", "-.inf", "1:60:60", "0x" + "f" * 5000, "1" * 5000, "9" * 400, "0o9", "1e999", "~",
     "yes", "[" * 90, "{a: " * 90, "[" * 1200, "&c [*c]", "&d {d: *d}",
     "\u2028", "\ud800", "é", "𝕏"]
)  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 2**16), FRAGMENTS, st.integers(0, 3)), max_size=3)


def changed(values: dict[str, Any], change: tuple[int, str, Any, str]) -> None:
    """Change one place of a recipe."""
    number, how, value, name = change
    paths = places(values)
    if not paths:
        return
    place: Any = values
    path = paths[number % len(paths)]
    for part in path[:-1]:
        place = place[part]
    last = path[-1]
    match how:
        case "delete":
            del place[last]
        case "wrap":
            place[last] = [place[last]]
        case "copy" if isinstance(place[last], list):
            place[last] = place[last] * 2
        case "rename" if isinstance(last, str):
            place[name] = place.pop(last)
        case "insert" if isinstance(place[last], dict):
            place[last][name] = value
        case _:
            place[last] = copy.deepcopy(value)


def written(values: Any) -> str:
    """As YAML's flow style, which nearly is JSON, and which is quickly written and read."""
    match values:
        case Raw():
            return str(values)
        case dict():
            pairs = (f"{written(str(key))}: {written(values[key])}" for key in values)
            return "{" + ", ".join(pairs) + "}"
        case list():
            return "[" + ", ".join(map(written, values)) + "]"
        case bool() | None | str():
            return json.dumps(values, ensure_ascii=False)
        case int():
            return hex(values)
        case _:
            return ".nan" if math.isnan(values) else f"{values:e}".replace("inf", ".inf")


def read(file: Path, text: str, overrides: tuple[str, ...] = ()) -> Recipe | None:
    """The recipe, or None if it was refused in words that can be read."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        return load(file, overrides)
    except UsageError as error:
        assert str(error)
        assert max(map(len, str(error).splitlines())) <= LONGEST_LINE
        return None


def fuzz(what: str) -> Any:
    return settings(
        max_examples=COUNTS[what], suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@fuzz("values")
@given(base=st.sampled_from(VALID), changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_any_values_are_a_recipe_or_refused(
    tmp_path: Path, base: dict[str, Any], changes: list[tuple[int, str, Any, str]]
) -> None:
    values = copy.deepcopy(base)
    for change in changes:
        changed(values, change)
    recipe = read(tmp_path / "recipe.yaml", written(values))
    if recipe is not None:
        assert read(tmp_path / "again.yaml", dump(recipe)) == recipe


@fuzz("texts")
@given(base=st.sampled_from(VALID), edits=EDITS)
def test_any_text_is_a_recipe_or_refused(
    tmp_path: Path, base: dict[str, Any], edits: list[tuple[int, str, int]]
) -> None:
    text = written(base)
    for number, fragment, replaced in edits:
        at = number % (len(text) + 1)
        text = text[:at] + fragment + text[at + replaced :]
    read(tmp_path / "recipe.yaml", text)


@fuzz("overrides")
@given(
    base=st.sampled_from(VALID),
    overrides=st.lists(
        st.tuples(
            st.integers(0, 2**16),
            st.sampled_from(["{}={}", "{}.x={}", "{}{}", "x.{}={}", "{}.0={}"]),
            FRAGMENTS | WORDS | st.builds(str, st.floats() | st.integers()),
        ),
        min_size=1, max_size=3,
    ),
)  # fmt: skip
def test_any_override_is_applied_or_refused(
    tmp_path: Path, base: dict[str, Any], overrides: list[tuple[int, str, str]]
) -> None:
    paths = places(base)
    given_ = tuple(
        form.format(".".join(map(str, paths[number % len(paths)])), text)
        for number, form, text in overrides
    )
    read(tmp_path / "recipe.yaml", written(base), given_)


def test_what_is_generated_from_is_valid(tmp_path: Path) -> None:
    """Else nothing above would be about anything."""
    for values in VALID:
        assert yaml.safe_load(written(values)) == values
        assert read(tmp_path / "recipe.yaml", written(values)) is not None
    assert sum(COUNTS.values()) == 2000
