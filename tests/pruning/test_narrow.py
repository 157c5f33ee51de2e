"""A model with fewer tokens is the same model, of every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from nexus.errors import NexusError, UsageError
from nexus.kernels.decoder import evaluated
from nexus.pruning import narrow as module
from nexus.pruning.narrow import narrow
from nexus.ties import is_tied

KEPT = torch.tensor([0, 3, 4, 7, 11, 20, 21, 39])
KINDS = ("llama", "gemma2", "gpt2", "opt", "bert", "qwen3_moe")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_kept_tokens_have_the_logits_that_they_had(
    small: Callable[..., PreTrainedModel], kind: str
) -> None:
    model = small(kind)
    tokens = torch.arange(len(KEPT)).repeat(2, 2)
    result = narrow(model, KEPT)
    with evaluated(model), evaluated(result.model):
        before = model(input_ids=KEPT[tokens]).logits[..., KEPT]
        after = result.model(input_ids=tokens).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    rows = len(model.get_input_embeddings().weight)
    assert len(result.model.get_input_embeddings().weight) == len(KEPT) < rows == 40
    assert is_tied(result.model) == is_tied(model)
    assert all(proof.outcome == "proved" for proof in result.findings)


@pytest.mark.parametrize(
    "task", [AutoModelForSequenceClassification, AutoModelForQuestionAnswering]
)
@torch.no_grad()
def test_a_model_that_names_no_tokens_says_what_it_said(
    small: Callable[..., PreTrainedModel], task: Any
) -> None:
    model = task.from_config(small("bert").config).eval()
    text = torch.randint(len(KEPT), (2, 9))
    result = narrow(model, KEPT)
    assert torch.equal(result.model(input_ids=text)[0], model(input_ids=KEPT[text])[0])
    assert len(result.model.get_input_embeddings().weight) == len(KEPT)
    assert [proof.outcome for proof in result.findings] == ["proved", "skipped", "proved"]


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_its_distribution_is_the_teachers_gathered_and_renormalised(
    small: Callable[..., PreTrainedModel], tied: bool
) -> None:
    model = small("llama", tie_word_embeddings=tied)
    text = torch.randint(len(KEPT), (2, 9))
    whole = model(input_ids=KEPT[text]).logits.double().softmax(-1)
    gathered = whole[..., KEPT]
    by_hand = gathered / gathered.sum(-1, keepdim=True)
    ours = narrow(model, KEPT).model(input_ids=text).logits.double().softmax(-1)
    torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-7)


def test_it_is_an_ordinary_model_and_only_rows_are_new(
    small: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model: Any = small("llama", bos_token_id=3, eos_token_id=[11, 39], pad_token_id=20)
    model.generation_config.eos_token_id = [11, 39]
    part: Any = narrow(model, KEPT).model
    shared = model.model.layers[0].mlp.up_proj.weight
    assert part.model.layers[0].mlp.up_proj.weight.data_ptr() == shared.data_ptr()
    assert (part.config.bos_token_id, part.config.eos_token_id) == (1, [4, 7])
    assert part.generation_config.eos_token_id == [4, 7]
    assert (part.config.pad_token_id, part.config.vocab_size) == (5, len(KEPT))
    assert (model.config.eos_token_id, model.config.vocab_size) == ([11, 39], 40)
    part.save_pretrained(tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(len(KEPT))[None]
    assert torch.equal(again(input_ids=ids).logits, part(input_ids=ids).logits)
    assert again.generate(ids, max_new_tokens=3, do_sample=False).max() < len(KEPT)


def test_half_precision_selects_the_same_rows(small: Callable[..., PreTrainedModel]) -> None:
    model = small("llama").bfloat16()
    part = narrow(model, KEPT).model
    assert part.dtype == torch.bfloat16
    rows = model.get_input_embeddings().weight[KEPT]
    assert torch.equal(part.get_input_embeddings().weight, rows)


def test_wrong_rows_are_noticed(
    small: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    select = module._selected
    monkeypatch.setattr(module, "_selected", lambda model, ids: select(model, ids.roll(1)))
    with pytest.raises(NexusError, match="logits that they had"):
        narrow(small("llama"), KEPT)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(
    small: Callable[..., PreTrainedModel],
) -> None:
    with pytest.raises(UsageError, match=r"has 40 rows .* ids up to 40"):
        narrow(small("llama"), torch.tensor([1, 40]))
