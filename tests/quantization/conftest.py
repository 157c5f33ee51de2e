"""Small models and tokens to quantise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def make() -> Make:
    """A Llama of two layers, whose shapes the kernels take."""

    def made(dtype: torch.dtype = torch.float32, **changes: int | bool) -> PreTrainedModel:
        torch.manual_seed(0)
        sizes = {
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.15,
            "tie_word_embeddings": True,
        }
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()
        model.requires_grad_(False)
        for part in model.modules():
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
        return model

    return made


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(96, (2, 20), generator=torch.Generator().manual_seed(1))
