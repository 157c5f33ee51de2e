"""A student made of some of the teacher's layers: which they are, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from nexus.errors import UsageError
from nexus.students.layers import Layers


def tiny() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=6,
        num_attention_heads=2,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("pick", "expected"),
    [("first", (0, 1)), ("last", (4, 5)), ("evenly_spaced", (0, 5)), ((1, 4), (1, 4))],
)
def test_the_choice_is_what_it_is_called(pick: Any, expected: tuple[int, ...]) -> None:
    spec = Layers(count=2, pick=pick)
    assert spec.choose(tiny(), []) == expected


def test_a_teacher_elsewhere_has_no_layers_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a model in this process.*local teacher"):
        Layers(count=2).build(None, [], tmp_path, seed=0)


def test_build_chooses_and_keeps(tmp_path: Path) -> None:
    teacher = tiny()
    student = Layers(pick=(0, 4)).build(teacher, [], tmp_path, seed=0)
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(student.state_dict()[name.format(1)], teacher.state_dict()[name.format(4)])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pick": "first"}, "needs count"),
        ({"pick": [1, 1]}, "each once"),
        ({"pick": [2, 1]}, "increasing order"),
        ({"pick": []}, "increasing order"),
        ({"pick": [0, 1], "count": 3}, "count is 3"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"pick": [-1]}, "greater than or equal to 0"),
        ({"pick": "firts", "count": 2}, "'block_influence', 'evenly_spaced', 'first' or 'last'"),
    ],
)
def test_a_choice_that_is_none_is_explained(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Layers.parse({"kind": "layers", **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pick": [0, 6]}, r"pick asks for layer 6, but the teacher has 6 layers \(0 to 5\)"),
        ({"pick": "last", "count": 7}, r"count asks for 7 layers.*\(0 to 5\)"),
    ],
)
def test_more_than_the_teacher_has_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Layers.parse(values).choose(tiny(), [])
