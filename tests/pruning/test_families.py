"""Every tensor of every known architecture has its axes; what is unknown is named."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nexus.errors import UsageError
from nexus.pruning.families import FAMILIES, GPT2, LLAMA, PHI3, family_of, layers_of
from nexus.quantization.quantize import quantize
from nexus.quantization.scheme import Scheme

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("model.embed_tokens.weight", ("vocabulary", "hidden")),
        ("model.layers.mlp.down_proj.weight", ("hidden", "neurons")),
        ("model.layers.mlp.down_proj.bias", ("hidden",)),
        ("model.layers.self_attn.k_proj.bias", ("groups",)),
        ("model.norm.weight", ("hidden",)),
    ],
)
def test_a_bias_has_the_axis_of_its_output(name: str, axes: tuple[str, ...]) -> None:
    assert LLAMA.axes(name) == axes


def test_where_weights_lie_the_other_way_round_the_output_is_last() -> None:
    assert GPT2.axes("transformer.h.mlp.c_fc.weight") == ("hidden", "neurons")
    assert GPT2.axes("transformer.h.mlp.c_fc.bias") == ("neurons",)
    assert GPT2.axes("transformer.h.attn.c_attn.bias") == ("heads+heads+heads",)


def test_axes_that_lie_behind_each_other_are_told_apart() -> None:
    assert PHI3.names == {"heads", "groups", "hidden", "neurons", "vocabulary"}


def test_a_tensor_that_no_row_knows_is_none() -> None:
    with pytest.raises(KeyError):
        LLAMA.axes("model.layers.self_attn.sinks")


def test_an_architecture_with_more_than_the_row_says_is_refused() -> None:
    """MiniCPM-like or patched models: a tensor without axes would be cut wrongly."""
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL))
    assert family_of(model) is FAMILIES["llama"]
    model.model.layers[0].mlp.register_buffer("gain", torch.ones(3))
    with pytest.raises(UsageError, match=r"'llama' has tensors.*mlp\.gain"):
        family_of(model)


def test_a_model_in_few_bits_is_sent_back_to_what_it_was_made_of() -> None:
    config = transformers.LlamaConfig(**SMALL, intermediate_size=32)
    model = quantize(AutoModelForCausalLM.from_config(config), Scheme(scheme="int8")).model
    with pytest.raises(UsageError, match="is quantised: cut the model that it was made of") as told:
        family_of(model)
    assert "weight_packed" not in str(told.value)


def test_layers_are_found_under_their_name() -> None:
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL))
    name, layers = layers_of(model, LLAMA)
    assert name == "model.layers"
    assert layers is model.model.layers
