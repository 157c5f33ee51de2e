from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from nexus.evaluation.size import bytes_on_disk, flops_per_token, size

EMBEDDING = 100 * 32
LAYER = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
FINAL_NORM = 32


@pytest.mark.parametrize(("tied", "tables"), [(True, 1), (False, 2)])
def test_parameters_are_counted_once_each(tiny_model: Any, tied: bool, tables: int) -> None:
    found = size(tiny_model(layers=3, tied=tied))
    assert found.parameters_without_embeddings == 3 * LAYER + FINAL_NORM
    assert found.parameters == 3 * LAYER + FINAL_NORM + tables * EMBEDDING
    assert (found.dtype, found.bytes_on_disk) == ("float32", None)


def test_bytes_on_disk_are_those_of_all_files(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(1000))
    for none_of_the_model in ("README.md", ".tmp-README.md", ".gitattributes"):
        (tmp_path / "model" / none_of_the_model).write_text("a card, or half of one")
    (tmp_path / "blob").write_bytes(bytes(23))
    (tmp_path / "model" / "config").symlink_to(tmp_path / "blob")
    assert bytes_on_disk(tmp_path / "model") == 1023
    assert size(tiny_model(), tmp_path / "model").bytes_on_disk == 1023


def test_the_type_is_that_of_the_files_where_there_are_any(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model()
    assert size(model.to(torch.bfloat16)).dtype == "bfloat16"
    model.save_pretrained(tmp_path)
    assert size(model.to(torch.float32), tmp_path).dtype == "bfloat16"


GPT2 = GPT2Config(
    vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
)
MIXTRAL = MixtralConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=4,
    num_experts_per_tok=2,
)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_twice_the_weights_of_all_products_and_the_attention(
    tiny_model: Any, tied: bool
) -> None:
    """Scores and values: 2 × 2 × context × width a layer. The head counts, the lookup does not."""
    found = flops_per_token(tiny_model(layers=3, tied=tied), context=64)
    assert found == 2 * (3 * (LAYER - 2 * 32) + EMBEDDING) + 3 * 4 * 64 * 32


def test_flops_of_experts_are_those_a_token_is_sent_to() -> None:
    """Four products of attention, a router of four, and two of the four experts."""
    attention, router, experts = 32 * 32 * 2 + 32 * 16 * 2, 32 * 4, 2 * 3 * 32 * 48
    found = flops_per_token(MixtralForCausalLM(MIXTRAL), context=64)
    assert found == 2 * (2 * (attention + router + experts) + EMBEDDING) + 2 * 4 * 64 * 32


def test_flops_are_those_counted_while_a_real_model_runs(tiny_model: Any) -> None:
    config = tiny_model().config
    models: list[PreTrainedModel] = [
        LlamaForCausalLM._from_config(config, attn_implementation="eager"),
        GPT2LMHeadModel._from_config(GPT2, attn_implementation="eager"),
    ]
    for model in models:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.zeros(1, 64, dtype=torch.long), use_cache=False)
        assert flops_per_token(model, context=64) == counter.get_total_flops() / 64
        assert model.config._attn_implementation == "eager"


def test_a_short_context_is_filled(tiny_model: Any) -> None:
    model = GPT2LMHeadModel(GPT2)
    assert flops_per_token(model, context=10_000) == flops_per_token(model, context=64)
    assert size(tiny_model(context=32)).flops_per_token == flops_per_token(
        tiny_model(context=256), context=32
    )
