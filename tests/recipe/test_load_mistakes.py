"""More than a hundred mistakes in recipes: every message names the key and the way out."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from nexus.errors import UsageError
from nexus.recipe.load import load
from nexus.recipe.schema import Recipe

sys.path.insert(0, str(Path(__file__).parent))

from mistakes import GONE, MISTAKES, OVERRIDES, SINGLE, STAGED, STAGES, TEXTS, Mistake


def message(file: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        load(file, overrides)
    return str(caught.value)


def wrong(base: dict[str, Any], mistake: Mistake) -> dict[str, Any]:
    values = copy.deepcopy(base)
    place: Any = values
    *parents, last = mistake.place.split(".")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    at: Any = int(last) if isinstance(place, list) else last
    if mistake.value is GONE:
        del place[at]
    else:
        place[at] = mistake.value
    return values


def as_written(place: str) -> str:
    """`a.0.b` as messages write it: `a[0].b`."""
    first, *rest = place.split(".")
    return first + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in rest)


def name(mistake: Mistake) -> str:
    shown = "absent" if mistake.value is GONE else str(mistake.value)[:30]
    return f"{mistake.place}={shown}"


@pytest.mark.parametrize("mistake", [*MISTAKES, *STAGES], ids=name)
def test_the_key_and_the_remedy_are_named(tmp_path: Path, mistake: Mistake) -> None:
    base = STAGED if mistake in STAGES else SINGLE
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(wrong(base, mistake)))
    said = message(file)
    assert said.startswith(str(file))
    assert (mistake.named or as_written(mistake.place)) in said
    assert mistake.remedy in said
    assert "\n" not in said, "one mistake, one line"


@pytest.mark.parametrize(("text", "named", "remedy"), TEXTS)
def test_what_is_no_yaml_is_shown_with_its_place(
    tmp_path: Path, text: str, named: str, remedy: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = message(file)
    assert str(file) in said
    assert named in said and remedy in said


@pytest.mark.parametrize(("override", "named", "remedy"), OVERRIDES)
def test_an_override_that_is_wrong_names_key_and_remedy(
    tmp_path: Path, override: str, named: str, remedy: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(SINGLE))
    said = message(file, (override,))
    assert named in said and remedy in said


def test_there_are_a_hundred_and_every_part_of_a_recipe_has_some(tmp_path: Path) -> None:
    distinct = {(mistake.place, repr(mistake.value)) for mistake in (*MISTAKES, *STAGES)}
    assert len(distinct) + len(set(TEXTS)) + len(set(OVERRIDES)) >= 100
    assert {mistake.spec for mistake in (*MISTAKES, *STAGES)} == set(specs(Recipe))
    for base in (SINGLE, STAGED):  # without a mistake they are good
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(base))
        assert load(file).all_stages


def specs(spec: type[BaseModel]) -> list[str]:
    """The names of all specs that a recipe consists of."""
    definitions = spec.model_json_schema()["$defs"]
    return [spec.__name__, *(name for name, one in definitions.items() if "properties" in one)]
