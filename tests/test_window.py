"""How many positions a model takes: as many as it computes without an error."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    RobertaConfig,
    RobertaModel,
)

from nexus.window import context_limit

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 34,
}


def test_the_shortest_context_of_all_models_is_the_limit() -> None:
    long, short = LlamaConfig(max_position_embeddings=4096), GPT2Config(n_positions=64)
    assert context_limit(long) == 4096
    assert context_limit(long, short) == context_limit(short, long) == 64
    assert context_limit() is None


@pytest.mark.parametrize(
    ("kind", "config"), [(BertModel, BertConfig(**SMALL)), (RobertaModel, RobertaConfig(**SMALL))]
)
@torch.no_grad()
def test_it_is_as_many_as_an_encoder_really_takes(kind: type, config: PreTrainedConfig) -> None:
    """To see it fail: in window._limit, return the configuration's number for all."""
    model, limit = kind(config).eval(), context_limit(config)
    assert limit is not None
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))
