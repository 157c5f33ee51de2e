"""Small language models of several families over one vocabulary, and padded batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 60
MakeModel = Callable[..., PreTrainedModel]

_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


def _llama(layers: int, vocabulary: int, **changes: Any) -> PreTrainedModel:
    config = {**_LLAMA, "vocab_size": vocabulary, "num_hidden_layers": layers, **changes}
    return LlamaForCausalLM(LlamaConfig(**config))


def _qwen2(layers: int, vocabulary: int, **changes: Any) -> PreTrainedModel:
    config = {**_LLAMA, "vocab_size": vocabulary, "num_hidden_layers": layers, **changes}
    return Qwen2ForCausalLM(Qwen2Config(**config, tie_word_embeddings=True))


def _gpt2(layers: int, vocabulary: int, **changes: Any) -> PreTrainedModel:
    sizes = {"n_embd": 16, "n_head": 2, "n_positions": 32, **changes}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_layer=layers, initializer_range=0.3, **sizes, **dropout)
    )


def _opt(layers: int, vocabulary: int, **changes: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, **changes}
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=vocabulary,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=32,
            init_std=0.3,
            dropout=0.0,
            **sizes,
        )
    )


FAMILIES: Mapping[str, Callable[..., PreTrainedModel]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "opt": _opt,
}


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A fresh model of a family, with weights large enough to prefer some tokens to others."""

    def make(
        family: str = "llama", layers: int = 1, seed: int = 0, vocabulary: int = VOCABULARY,
        **changes: Any,
    ) -> PreTrainedModel:  # fmt: skip
        torch.manual_seed(seed)
        return FAMILIES[family](layers, vocabulary, **changes).eval()

    return make


@pytest.fixture
def padded() -> dict[str, Tensor]:
    """Four rows of 5 to 9 tokens padded on the right; some labels are not to be learnt."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(VOCABULARY, (4, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([[9], [5], [7], [6]])).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 2:5] = -100
    labels[2, 0] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
