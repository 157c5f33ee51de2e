"""What a recipe can say, and how it is told what it cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.recipe.schema import Recipe


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        Recipe.parse(values)
    return str(caught.value)


def test_one_stage_is_a_list_of_one(values: dict[str, Any]) -> None:
    stages = Recipe.parse(values).all_stages
    assert [len(stage.objectives) for stage in stages] == [2]
    assert stages[0].train.steps == 10


def test_stages_keep_their_order_and_replace_objectives_and_train(values: dict[str, Any]) -> None:
    objectives, train = values.pop("objectives"), values.pop("train")
    values["stages"] = [
        {"name": name, "objectives": objectives, "train": train} for name in ("warm", "main")
    ]
    assert [stage.name for stage in Recipe.parse(values).all_stages] == ["warm", "main"]
    assert "keep one or the other" in refused({**values, "train": train})


def test_a_student_is_saved_as_its_last_stage_trains_it(values: dict[str, Any]) -> None:
    shared = {"objectives": values.pop("objectives")}
    train, cut = values.pop("train"), {"kind": "layers", "count": 1}
    values["stages"] = [
        {"name": name, **shared, "train": {**train, "precision": precision}, **more}
        for name, precision, more in (
            ("one", "bf16", {}),
            ("two", "pure_bf16", {}),
            ("three", "pure_bf16", {"student": cut}),
            ("four", "fp32", {}),
        )
    ]
    recipe = Recipe.parse(values)
    half, full = torch.bfloat16, torch.float32
    assert [recipe.saved_in(number) for number in range(4)] == [half, half, full, full]


@pytest.mark.parametrize("missing", ["objectives", "train"])
def test_half_a_stage_is_named(values: dict[str, Any], missing: str) -> None:
    del values[missing]
    assert f"'{missing}' is missing" in refused(values)


def test_stages_need_names_of_their_own(values: dict[str, Any]) -> None:
    stage = {"name": "a", "objectives": values.pop("objectives"), "train": values.pop("train")}
    assert "share a name" in refused({**values, "stages": [stage, stage]})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"tokens_per_step": 100},
            "tokens_per_step is 100.*sequence_length 64. Set it to 64 or",
        ),
        ({"tokens_per_step": 32}, "tokens_per_step is 32.*sequence_length 64. Set it to 64$"),
    ],
)
def test_sizes_that_do_not_fit_are_found_in_every_stage_before_the_first_begins(
    values: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    objectives, train = values.pop("objectives"), values.pop("train")
    first = {"name": "first", "objectives": objectives, "train": train}
    second = {"name": "second", "objectives": objectives, "train": {**train, **changed}}
    assert re.search(
        f"stage 'second': train.{said}", refused({**values, "stages": [first, second]})
    )


def test_weights_that_vanish_together_are_found_before_the_run(values: dict[str, Any]) -> None:
    values["objectives"] = [
        {"kind": "task", "weight": {"kind": "linear", "start": 1.0, "end": 0.0}},
        {"kind": "output", "weight": {"kind": "wsd", "peak": 1.0}},
    ]
    assert "all objectives have weight 0 at step 9" in refused(values)
    values["objectives"][1]["weight"]["end"] = 0.1
    Recipe.parse(values)


def test_terms_of_one_name_are_refused(values: dict[str, Any]) -> None:
    values["objectives"].append({"kind": "output", "temperature": 4.0})
    assert "two objectives are called 'output'" in refused(values)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "a"])
def test_a_seed_that_cannot_be_sown_is_refused(values: dict[str, Any], seed: Any) -> None:
    assert "'seed' is" in refused({**values, "seed": seed})


@pytest.mark.parametrize(
    ("path", "wrong", "nearest"),
    [
        ((), "techer", "teacher"),
        (("train",), "learning_rat", "learning_rate"),
        (("data",), "sequence_lenght", "sequence_length"),
        (("data", "sources", 0), "pth", "path"),
        (("objectives", 0), "temprature", "temperature"),
        (("student",), "cuont", "count"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest(
    values: dict[str, Any], path: tuple[Any, ...], wrong: str, nearest: str
) -> None:
    place: Any = values
    for part in path:
        place = place[part]
    place[wrong] = 1
    message = refused(values)
    assert wrong in message and f"'{nearest}'" in message


@pytest.mark.parametrize(
    ("section", "wrong", "known"),
    [("student", "layer", "layers"), ("objectives", "outptu", "output")],
)
def test_an_unknown_kind_is_named_with_those_that_exist(
    values: dict[str, Any], section: str, wrong: str, known: str
) -> None:
    target = values[section][0] if section == "objectives" else values[section]
    target["kind"] = wrong
    message = refused(values)
    assert wrong in message and known in message


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "steps", 0),
        ("train", "learning_rate", -1.0),
        ("train", "precision", "fp8"),
        ("train", "betas", [0.9]),
        ("data", "sequence_length", 1),
        ("data", "over_long", "shorten"),
        ("teacher", "dtype", "int7"),
        ("evaluate", "samples", -1),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(
    values: dict[str, Any], section: str, key: str, value: Any
) -> None:
    values.setdefault(section, {})[key] = value
    assert f"{section}.{key}" in refused(values)


def test_all_mistakes_are_listed_at_once(values: dict[str, Any]) -> None:
    values["train"]["steps"] = -1
    values["objectives"][0]["temperature"] = 0
    values["nonsense"] = 1
    message = refused(values)
    assert all(key in message for key in ("train.steps", "temperature", "nonsense"))


@given(
    section=st.sampled_from(["teacher", "student", "data", "train", "evaluate", "objectives"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
)
def test_whatever_stands_in_a_section_it_is_read_or_refused_by_name(
    section: str, value: Any
) -> None:
    values: dict[str, Any] = {
        "output": "o",
        "teacher": {"model": "t"},
        "student": {"kind": "layers", "count": 1},
        "data": {"sources": [{"kind": "jsonl", "path": "p"}]},
        "objectives": [{"kind": "output"}],
        "train": {"steps": 1},
    }
    values[section] = value
    try:
        Recipe.parse(values)
    except UsageError as error:
        assert section in str(error)


@pytest.mark.parametrize("output", ["", " ", "~", "~/runs", "~me", "a\nb", "a\x1b[2J", "a\u202eb"])
def test_an_output_that_names_no_directory_is_refused(output: str) -> None:
    values = {"output": output, "teacher": {"kind": "local", "model": "t"}}
    with pytest.raises(UsageError, match="'output' is .*it names no directory"):
        Recipe.parse(values)
