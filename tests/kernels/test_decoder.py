"""Where a model keeps its backbone and layers, whatever the family calls them."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from nexus.errors import UsageError
from nexus.kernels.decoder import (
    backbone,
    compile_layers,
    decoder_layers,
    evaluated,
    without_adapters,
)

LAYOUTS = {
    "LlamaConfig": ("model.layers", {"num_hidden_layers": 3}),
    "GPT2Config": ("transformer.h", {"n_layer": 3}),
    "GPTNeoXConfig": ("gpt_neox.layers", {"num_hidden_layers": 3}),
    "OPTConfig": ("model.decoder.layers", {"num_hidden_layers": 3, "word_embed_proj_dim": 16}),
    "BloomConfig": ("transformer.h", {"n_layer": 3, "n_head": 2}),
}


def tiny(name: str = "LlamaConfig") -> Any:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = getattr(transformers, name)(**sizes, **heads, **LAYOUTS[name][1])
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layers_are_found(name: str) -> None:
    model = tiny(name)
    layers = decoder_layers(model)
    assert layers is model.get_submodule(LAYOUTS[name][0])
    assert len(layers) == 3


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_are_seen_through() -> None:
    model = tiny()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    assert without_adapters(adapted) is model
    assert backbone(adapted) is model.model
    assert decoder_layers(adapted) is model.model.layers


def test_a_model_of_other_make_is_named() -> None:
    with pytest.raises(UsageError, match="Linear is not a transformers model"):
        backbone(nn.Linear(2, 2))


def test_a_bare_backbone_has_no_backbone() -> None:
    with pytest.raises(UsageError, match="LlamaModel does not keep its backbone apart"):
        backbone(tiny().model)


def test_compiling_layers_changes_no_name_and_no_weight() -> None:
    model = tiny()
    names = list(model.state_dict())
    compile_layers(model)
    assert list(model.state_dict()) == names
    assert all(layer._compiled_call_impl is not None for layer in decoder_layers(model))


def test_evaluated_restores_each_part_even_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    before = [part.training for part in model.modules()]
    with pytest.raises(KeyError), evaluated(model):
        assert torch.equal(model(torch.ones(100)), torch.ones(100))
        raise KeyError
    assert [part.training for part in model.modules()] == before
