"""Models that do not fit together are refused, each with the reason and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from nexus.errors import UsageError
from nexus.kernels.lm_head import split_head
from nexus.models.compression.distillation import KnowledgeDistiller
from nexus.models.compression.distillation.fit import refuse_what_looks_ahead


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_are_let_pass(make_model: Any, family: str, dtype: torch.dtype) -> None:
    model = make_model(family, layers=2).to(dtype).train()
    refuse_what_looks_ahead(split_head(model, 60, packed=False))
    assert model.training


def test_a_teacher_that_is_the_student_is_refused(make_model: Any) -> None:
    model, other = make_model(seed=1), make_model(seed=2)
    for teacher in (model, [other, model]):
        with pytest.raises(UsageError, match="shares weights with the student"):
            KnowledgeDistiller(teacher, model)
    with pytest.raises(UsageError, match="list of teachers is empty"):
        KnowledgeDistiller([], model)


def test_a_teacher_that_is_no_causal_language_model_is_refused(make_model: Any) -> None:
    sizes = {
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    bert = BertConfig(**sizes)
    for teacher in (BertModel(bert), BertForMaskedLM(bert)):
        with pytest.raises(UsageError, match=rf"{type(teacher).__name__}.*AutoModelForCausalLM"):
            KnowledgeDistiller(teacher, make_model(seed=2))
    t5 = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(UsageError, match="T5ForConditionalGeneration"):
        KnowledgeDistiller(T5ForConditionalGeneration(t5), make_model(seed=2))
    with pytest.raises(UsageError, match="Linear"):
        KnowledgeDistiller(nn.Linear(2, 2), make_model(seed=2))


def test_rows_longer_than_a_context_are_refused(make_model: Any) -> None:
    row = torch.zeros(1, 33, dtype=torch.long)
    short, long = make_model("gpt2", seed=1), make_model(seed=2, max_position_embeddings=64)
    for teacher, student in ((long, short), (short, long)):
        with pytest.raises(UsageError, match="rows of 33 tokens, but GPT2LMHeadModel.*at most 32"):
            KnowledgeDistiller(teacher, student).compute_loss(row)
