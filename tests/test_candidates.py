"""Models by the name that a user gives them, and what tells one from another."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from nexus.candidates import candidate
from nexus.errors import UsageError

WORK = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    WORK["save"](tmp_path / "one", WORK["make_model"](layers=1, seed=1))
    return tmp_path


def test_weights_tokenizer_and_type_tell_models_apart(folder: Path) -> None:
    WORK["save"](folder / "same", WORK["make_model"](layers=1, seed=1))
    WORK["save"](folder / "other", WORK["make_model"](layers=1, seed=2))
    spoken = WORK["make_tokenizer"]()
    spoken.chat_template = "{{ messages }}"
    WORK["save"](folder / "spoken", WORK["make_model"](layers=1, seed=1), spoken)

    def of(name: str) -> str:
        return candidate(str(folder / name)).subject.fingerprint

    half = candidate(str(folder / "one"), "bfloat16").subject
    assert of("one") == of("same")
    assert len({of("one"), of("other"), of("spoken"), half.fingerprint}) == 4
    assert half.dtype == "bfloat16"


def test_a_candidate_is_loaded_to_be_looked_at(folder: Path) -> None:
    found = candidate(str(folder / "one"))
    assert not found.model.training
    assert not any(weight.requires_grad for weight in found.model.parameters())
    assert found.context_limit == 256
    size = found.size
    assert size.parameters == sum(weight.numel() for weight in found.model.parameters())
    assert size.bytes_on_disk is not None and size.bytes_on_disk > 4 * size.parameters


def test_a_gguf_file_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    found = candidate(str(tmp_path / "small.gguf"))
    assert (found.source.model, found.source.gguf_file) == (str(tmp_path), "small.gguf")


def test_what_is_no_model_is_refused(folder: Path) -> None:
    WORK["make_model"](layers=1, seed=1).save_pretrained(folder / "mute")
    with pytest.raises(UsageError, match="has no tokenizer that can be loaded. Save one"):
        _ = candidate(str(folder / "mute")).tokenizer
    (folder / "one" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"one holds no weights \(\*\.safetensors\)\. Name"):
        candidate(str(folder / "one"))
    with pytest.raises(UsageError, match="does not exist"):
        _ = candidate(str(folder / "nothing" / "there")).tokenizer
