"""A tokenizer and batches for students to be built with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from nexus.batch import IGNORED, PADDING, Batch


@pytest.fixture
def rows() -> Callable[..., Batch]:
    """Rows of one document each: as long as said, of random tokens, padded at the end."""

    def build(*lengths: int, vocabulary: int = 40) -> Batch:
        length = max(lengths)
        ends = torch.tensor(lengths)[:, None]
        tokens = torch.randint(vocabulary, (len(lengths), length))
        inside = torch.arange(length) < ends
        zeros = torch.zeros_like(tokens)
        return Batch(
            input_ids=tokens,
            targets=torch.full_like(tokens, IGNORED),
            position_ids=torch.where(inside, torch.arange(length), torch.arange(length) - ends),
            documents=torch.where(inside, 0, PADDING),
            parts=zeros,
            tasks=zeros,
        )

    return build


LLAMA = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 4}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True, "mlp_bias": True}),
    "gemma2": ("Gemma2Config", LLAMA | {"head_dim": 4, "sliding_window": 4}),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_head": 4, "n_layer": 3, "n_positions": 32}
        | {"n_inner": 24, "bos_token_id": None, "eos_token_id": None},
    ),
    "opt": ("OPTConfig", LLAMA | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "bert": ("BertConfig", LLAMA),
    "qwen3_moe": ("Qwen3MoeConfig", LLAMA | EXPERTS | {"mlp_only_layers": [1]}),
}


@pytest.fixture
def small() -> Callable[..., PreTrainedModel]:
    """A random model of an architecture, in float32, all of whose weights and biases matter."""

    def build(kind: str = "llama", **changes: Any) -> PreTrainedModel:
        name, settings = SMALL[kind]
        config = getattr(transformers, name)(**{**settings, **changes})
        maker = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
        torch.manual_seed(0)
        model = maker.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.tie_weights()
        return model

    return build
