"""A head that is the embedding stays it: in memory, in the configuration and in the files."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nexus import hub
from nexus.errors import NexusError
from nexus.ties import check_saved_tie, check_tie, is_tied

SLICING = runpy.run_path(str(Path(__file__).parent / "pruning" / "test_slice.py"))
make_tokenizer = runpy.run_path(str(Path(__file__).with_name("workspace.py")))["make_tokenizer"]
SIZES = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}


def llama(tied: bool) -> Any:
    config = LlamaConfig(**SIZES, num_attention_heads=2, tie_word_embeddings=tied)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_and_loaded_says_the_same_and_is_tied_as_before(
    tied: bool, tmp_path: Path
) -> None:
    model = llama(tied)
    assert is_tied(model) is tied
    hub.save(model, make_tokenizer(), tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert is_tied(loaded) is tied
    assert loaded.config.tie_word_embeddings is tied


@pytest.mark.parametrize("tied", [True, False])
def test_a_configuration_that_says_otherwise_is_not_saved(tied: bool, tmp_path: Path) -> None:
    """Loaded again, a head of its own would be lost. Drop `check_saved_tie` from `hub.save` to see
    it fail."""
    model = llama(tied)
    model.config.tie_word_embeddings = not tied
    with pytest.raises(NexusError, match="tie_word_embeddings: "):
        check_tie(model)
    with pytest.raises(NexusError, match="Loaded again it would be another model"):
        hub.save(model, make_tokenizer(), tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", SLICING["MODELS"])
def test_files_of_every_architecture_hold_the_head(kind: str, tied: bool, tmp_path: Path) -> None:
    """Some are saved under older names, as GPT-NeoX's head. To see it fail: look for the names that
    the model has."""
    model = SLICING["tiny"](kind, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    check_saved_tie(model, tmp_path)


def test_a_head_that_is_missing_from_the_files_is_noticed(tmp_path: Path) -> None:
    llama(tied=True).save_pretrained(tmp_path)
    with pytest.raises(NexusError, match="stores 1 of .* where 2 belong"):
        check_saved_tie(llama(tied=False), tmp_path)
