"""A checkpoint is loaded as what it was saved as, and encoders only where they will do."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
)

from nexus.architectures import loaded_apart, loader_of
from nexus.errors import UsageError


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("BertForMaskedLM", AutoModelForMaskedLM),
        ("BertForSequenceClassification", AutoModelForSequenceClassification),
        ("BertForTokenClassification", AutoModelForTokenClassification),
    ],
)
def test_an_encoder_is_loaded_as_what_it_was_saved_as(name: str, loader: type) -> None:
    config = BertConfig(architectures=[name])
    assert loader_of("'m'", config, encoders=True) is loader
    with pytest.raises(UsageError, match=f"{name}.*not a causal language model"):
        loader_of("'m'", config)


def test_a_body_without_a_head_is_refused_with_what_is_known() -> None:
    with pytest.raises(UsageError, match="BertModel.*ForMaskedLM.*Save it with such a head"):
        loader_of("'m'", BertConfig(architectures=["BertModel"]), encoders=True)
    llama = LlamaConfig(architectures=["LlamaForCausalLM"])
    assert loader_of("'m'", llama, encoders=True) is AutoModelForCausalLM


def test_only_a_head_over_classes_may_round_otherwise_when_it_is_loaded_again() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = BertConfig(**sizes, intermediate_size=8)
    logits = torch.tensor([[0.5, -2.0]])
    assert loaded_apart(BertForMaskedLM(config), logits) == 0
    assert 0 < loaded_apart(BertForSequenceClassification(config), logits) < 1e-5
