"""What a shape costs is what the model of that shape has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.sizes import Sizes, parameters

SETTINGS: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


def on_meta(**changes: Any) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SETTINGS | changes))


@settings(max_examples=15)
@given(
    st.integers(1, 5), st.sampled_from([24, 36, 48]), st.integers(1, 64), st.booleans(),
    st.integers(8, 90),
)  # fmt: skip
def test_the_count_is_that_of_the_model_built(
    layers: int, hidden: int, neurons: int, tied: bool, vocabulary: int
) -> None:
    model = on_meta(tie_word_embeddings=tied)
    family = family_of(model)
    before = Sizes.of(model.config, family)
    wanted = replace(before, layers=layers, hidden=hidden, neurons=neurons, vocabulary=vocabulary)
    config = wanted.apply(model.config, family)
    config.num_hidden_layers = layers
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    count = sum(parameter.numel() for parameter in built.parameters())
    assert parameters(model, family, wanted) == count
    ends = vocabulary * hidden * (1 if tied else 2)
    assert parameters(model, family, wanted, embeddings=False) == count - ends
    assert Sizes.of(built.config, family) == wanted


def test_heads_keep_their_size_when_the_stream_gets_narrower() -> None:
    model = on_meta()
    sizes = Sizes.of(model.config, family_of(model))
    config = replace(sizes, hidden=36).apply(model.config, family_of(model))
    assert (config.hidden_size, config.head_dim) == (36, 8)
    assert model.config.hidden_size == 48


def test_what_the_architecture_refuses_is_said() -> None:
    model = on_meta()
    sizes = replace(Sizes.of(model.config, family_of(model)), hidden=40)
    with pytest.raises(UsageError, match="llama cannot have this shape"):
        sizes.apply(model.config, family_of(model))
