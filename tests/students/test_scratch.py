"""A student from scratch: its configuration's shape, its seed's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from transformers import BertConfig, GPT2Config, PreTrainedModel

from nexus.errors import UsageError
from nexus.students import AnyStudent
from nexus.students.scratch import Scratch


def build(folder: Path, config: str = "shape", seed: int = 0) -> PreTrainedModel:
    return Scratch.parse({"kind": "scratch", "config": config}).build(None, [], folder, seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shape = GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, dtype="bfloat16")
    shape.save_pretrained(tmp_path / "shape")
    return tmp_path


def test_the_seed_decides_the_weights(folder: Path) -> None:
    first, again, other = (build(folder, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "transformer.wte.weight"
    assert not torch.equal(first[name], other[name])
    assert first[name].dtype == torch.float32


def test_the_seed_decides_nothing_else(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build(folder, seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_the_file_itself_can_be_named(folder: Path) -> None:
    assert build(folder, "shape/config.json").config.n_embd == 4


def test_a_shape_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="no model configuration at .*absent"):
        build(folder, "absent")


def test_a_shape_of_no_causal_model_is_named(folder: Path) -> None:
    BertConfig().save_pretrained(folder / "bert")
    with pytest.raises(UsageError, match="not a causal"):
        build(folder, "bert")


def test_the_union_knows_every_kind() -> None:
    student = TypeAdapter(AnyStudent)
    for values in (
        {"kind": "scratch", "config": "shape"},
        {"kind": "pretrained", "model": "m"},
        {"kind": "layers", "count": 2},
    ):
        assert student.validate_python(values).kind == values["kind"]
