"""Whatever a person gets wrong in a recipe, it is refused by name and never with a traceback."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.recipe.load import dump, load

RICH: dict[str, Any] = {
    "output": "runs/one",
    "seed": 3,
    "teacher": {"kind": "local", "model": "teacher", "dtype": "bfloat16"},
    "student": {"kind": "layers", "pick": [0, 2, 5]},
    "data": {
        "sources": [
            {"kind": "jsonl", "path": "train.jsonl", "task": "math"},
            {"kind": "hub", "name": "some/thing", "streaming": True, "task": "talk"},
        ],
        "heldout": [{"kind": "parquet", "path": "held.parquet"}],
        "weights": {"math": 0.5, "talk": 0.5},
        "sequence_length": 64,
    },
    "stages": [
        {
            "name": "warm",
            "objectives": [
                {"kind": "task", "weight": {"kind": "linear", "start": 0.1, "end": 1.0}},
                {"kind": "output", "divergence": "jsd", "beta": 0.5, "temperature": 2.0},
            ],
            "train": {"steps": 3, "tokens_per_step": 128, "betas": [0.9, 0.95]},
        },
        {
            "name": "main",
            "objectives": [{"kind": "output", "weight": 1.0}],
            "train": {"steps": 5, "tokens_per_step": 64, "lora": {"rank": 2, "targets": ["q"]}},
        },
    ],
    "evaluate": {"speed_seconds": 0, "samples": 1},
}


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a recipe."""
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    found = [(*path, key) for key, _ in inner]
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in children:
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.dates() | st.binary()
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(), inner),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(places(RICH)),
    change=st.sampled_from(["replace", "delete", "rename", "wrap", "insert"]),
    value=ANYTHING,
    name=WORDS | st.integers(),
)
def test_one_mistake_anywhere_is_named(
    tmp_path: Path, path: tuple[Any, ...], change: str, value: Any, name: Any
) -> None:
    values = copy.deepcopy(RICH)
    place: Any = values
    for part in path[:-1]:
        place = place[part]
    last = path[-1]
    match change:
        case "delete":
            del place[last]
        case "wrap":
            place[last] = [place[last]]
        case "rename" if isinstance(last, str):
            place[name] = place.pop(last)
        case "insert" if isinstance(place[last], dict):
            place[last][name] = value
        case _:
            place[last] = value
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        recipe = load(file)
    except UsageError as error:
        assert str(file) in str(error)
        said = str(error).replace(str(file), "")
        keys = [part for part in path if isinstance(part, str)][-1:]
        if change in ("rename", "insert"):
            keys.append(str(name))
        assert any(key in said for key in keys), said
    else:
        file.write_text(dump(recipe), encoding="utf-8")
        assert load(file) == recipe


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    override=st.text(max_size=12)
    | st.builds(
        lambda path, text: f"{'.'.join(map(str, path))}={text}",
        st.sampled_from(places(RICH)),
        st.text(max_size=8),
    )
)
def test_any_override_is_applied_or_refused(tmp_path: Path, override: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RICH))
    try:
        load(file, [override])
    except UsageError as error:
        assert str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.text("[]{}:-&*!?|>%@`,#'\"\n a1", max_size=40))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError):
        load(file)
