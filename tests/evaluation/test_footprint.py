"""The memory of a model alone, in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus.errors import NexusError
from nexus.evaluation import footprint
from nexus.evaluation.footprint import footprints, measure_memory
from nexus.hub import ModelSource
from nexus.teachers.local import LocalTeacherSpec

MIB = 2**20 / 2**30


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 MiB: half is a table that is hardly looked into, half is the head."""
    config = LlamaConfig(
        vocab_size=65_536,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_it_is_the_weights_whatever_this_process_holds(saved: Path) -> None:
    ballast = torch.ones(400 * 2**18)  # 400 MiB that a child must not be charged with
    found = measure_memory(saved, new_tokens=2)
    assert len(ballast) and 32 * MIB <= found < 350 * MIB


def test_more_texts_at_once_take_more(saved: Path) -> None:
    """256 texts of 512 tokens: 64 MiB for each copy of the activations, and as much to keep."""
    one = measure_memory(saved, new_tokens=1)
    many = measure_memory(saved, batch=256, prompt_tokens=512, new_tokens=1)
    assert many > one + 128 * MIB


def test_what_cannot_be_measured_is_said_in_a_line(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(NexusError, match="alone was not measured: ") as refused:
        measure_memory(tmp_path / "nothing")
    assert "\n" not in str(refused.value)
    with pytest.raises(NexusError, match="took more than 0.01 s"):
        measure_memory(saved, seconds=0.01)


def test_a_model_without_room_for_a_second_copy_is_left_out_and_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM.from_pretrained(saved)
    source = ModelSource(model=str(saved))
    found, left_out = footprints({"teacher": source}, {"teacher": model}, Path())
    assert set(found) == {"teacher"} and not left_out
    monkeypatch.setattr(footprint, "available_bytes", lambda device: 2**20)
    found, left_out = footprints({"teacher": source}, {"teacher": model}, Path())
    assert not found
    assert "memory of the teacher alone" in left_out[0]


def test_a_model_that_cannot_be_loaded_again_is_left_out_and_named(saved: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(saved)
    gone = ModelSource(model=str(saved / "gone"))
    found, left_out = footprints({"student": gone}, {"student": model}, Path())
    assert not found and "was not measured" in left_out[0]


def test_what_only_a_teacher_says_of_itself_is_no_hindrance(saved: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(saved)
    source = LocalTeacherSpec(model=str(saved), quantize="int8")
    found, left_out = footprints({"teacher": source}, {"teacher": model}, Path())
    assert found["teacher"] > 0 and not left_out
