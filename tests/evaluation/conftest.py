"""Tiny models of different depths, made on the spot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TinyModel = Callable[..., LlamaForCausalLM]


@pytest.fixture
def tiny_model() -> TinyModel:
    def make(
        layers: int = 2, seed: int = 0, tied: bool = True, context: int = 256
    ) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=tied,
        )
        return LlamaForCausalLM(config)

    return make
