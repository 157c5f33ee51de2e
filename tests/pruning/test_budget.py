"""What a model costs at other sizes is what a model of those sizes costs."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus.pruning.budget import Budget
from nexus.pruning.families import FAMILIES, family_of
from nexus.pruning.sizes import Sizes, parameters
from nexus.pruning.slice import Kept, cut

TINY = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))["tiny"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_counts_what_is_there_and_what_another_count_says(kind: str) -> None:
    model = TINY(kind)
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    count = Budget(model, family, "parameters")
    assert count(sizes) == sum(parameter.numel() for parameter in model.parameters())
    narrow = replace(sizes, hidden=24, neurons=20, expert_neurons=sizes.expert_neurons and 20)
    if kind != "qwen3_moe":  # whose layers are of two kinds
        assert count(narrow) == parameters(model, family, narrow)


def test_layers_of_two_kinds_are_told_apart() -> None:
    model = TINY("qwen3_moe")
    family = family_of(model)
    for layers in ((0, 1), (0, 2), (1,)):
        small = cut(model, Kept(layers=layers))
        sizes = Sizes.of(small.config, family)
        expected = sum(parameter.numel() for parameter in small.parameters())
        assert Budget(model, family, "parameters")(sizes, layers) == expected


def llama(**changes: object) -> LlamaForCausalLM:
    settings = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12}
    settings |= {"num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def test_the_measures_differ_by_what_they_say() -> None:
    """By hand: 4·8·8 of attention and 3·8·12 of the network a layer, norms of 8, table 50·8."""
    model = llama()
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    matrices = 2 * (4 * 8 * 8 + 3 * 8 * 12)
    norms = 5 * 8
    expected = {
        "parameters": matrices + norms + 400,
        "without_embeddings": matrices + norms,
        "bytes": 4 * (matrices + norms + 400),
        "flops": 2 * (matrices + 400),  # the tied table is multiplied with as the head
    }
    for measure, value in expected.items():
        assert Budget(model, family, measure)(sizes) == value  # type: ignore[arg-type]
    untied = llama(tie_word_embeddings=False)
    assert Budget(untied, family, "parameters")(sizes) == matrices + norms + 800
    assert Budget(untied, family, "flops")(sizes) == 2 * (matrices + 400)
    assert Budget(model.to(torch.bfloat16), family, "bytes")(sizes) == expected["bytes"] / 2


def test_of_experts_a_token_pays_for_those_that_it_asks() -> None:
    model = TINY("mixtral", num_experts_per_tok=2)
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    fewer = replace(sizes, experts=3)
    flops = Budget(model, family, "flops")
    assert flops(sizes) - flops(fewer) == 2 * sizes.layers * sizes.hidden  # one row of the router
    attention = 2 * 48 * 48 + 2 * 24 * 48
    layer = attention + 4 * 48 + 2 * 3 * 48 * 40  # two of four experts
    assert flops(sizes) == 2 * (3 * layer + 60 * 48)


def test_many_sizes_at_once_are_each_by_itself() -> None:
    model = llama()
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    count = Budget(model, family, "parameters")
    widths = np.array([4.0, 8.0, 12.0])
    values = {name: np.full(3, float(size)) for name, size in vars(sizes).items()}
    together = count.over(values | {"neurons": widths})
    assert list(together) == [count(replace(sizes, neurons=int(width))) for width in widths]
