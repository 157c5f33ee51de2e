"""Shapes meet their target and can be had."""

from __future__ import annotations

import math
import runpy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from nexus.errors import UsageError
from nexus.pruning.budget import Budget
from nexus.pruning.families import family_of
from nexus.pruning.search import AXES, TOLERANCE, Grid, default_shape, explicit_shape, shapes
from nexus.pruning.sizes import Sizes, parameters

TINY = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))["tiny"]
EVERY = (*AXES, "heads", "groups", "experts")


def test_neurons_of_experts_are_disliked_once() -> None:
    """Where they are the only ones, they are the configuration's neurons as well."""
    model = hollow(MixtralConfig(num_hidden_layers=4))
    grid = Grid(model, family_of(model), 32, AXES)
    half = asdict(grid.before) | {"neurons": grid.before.neurons / 2}
    half["expert_neurons"] = half["neurons"]
    assert float(grid.dislike(half)) == pytest.approx(math.log(2))


def hollow(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


SMOL = hollow(
    LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
)
LARGE = {
    "70B": LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
    "8B": Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    ),
    "gpt2": GPT2Config(),
    "mixture": MixtralConfig(num_hidden_layers=4),
}


def require_met(model: PreTrainedModel, sizes: Sizes, target: float, multiple: int = 32) -> None:
    family = family_of(model)
    assert abs(parameters(model, family, sizes) / target - 1) <= TOLERANCE
    before = Sizes.of(model.config, family)
    for name in ("neurons", "hidden", "expert_neurons"):
        size, whole = getattr(sizes, name), getattr(before, name)
        assert size == whole or size % multiple == 0
    assert sizes.heads % sizes.groups == 0
    sizes.apply(model.config, family)


def test_a_deep_and_narrow_model_gives_neurons_first_and_layers_then() -> None:
    """Of 134.5 million: 896 of 1,536 neurons are 101.3 million, by hand 640·3·576·30 fewer."""
    family = family_of(SMOL)
    first = default_shape(SMOL, family, target=101e6)
    assert first == replace(Sizes.of(SMOL.config, family), neurons=896)
    assert parameters(SMOL, family, first) == 134_515_008 - 640 * 3 * 576 * 30
    second = default_shape(SMOL, family, target=65e6)
    assert second.layers < 30 and second.neurons < 1536
    assert (second.hidden, second.heads, second.groups) == (576, 9, 3)


@pytest.mark.parametrize(("name", "target"), [("70B", 3e10), ("8B", 4e9), ("gpt2", 5e7)])
def test_models_of_any_size_have_a_shape(name: str, target: float) -> None:
    model = hollow(LARGE[name])
    sizes = default_shape(model, family_of(model), target=target)
    require_met(model, sizes, target)
    before = Sizes.of(model.config, family_of(model))
    if name != "gpt2":  # whose heads go with the hidden size
        assert (sizes.heads, sizes.groups) == (before.heads, before.groups)


def test_a_mixture_gives_neurons_of_its_experts() -> None:
    model = hollow(LARGE["mixture"])
    family = family_of(model)
    target = 0.6 * Budget(model, family, "parameters")(Sizes.of(model.config, family))
    sizes = default_shape(model, family, target=target)
    require_met(model, sizes, target)
    assert sizes.expert_neurons < 14336 and sizes.experts == 8


SMALL = hollow(
    LlamaConfig(
        vocab_size=64,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
    )
)
FOLLOW = {"groups": {"heads"}}  # a group goes with its heads


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.3, 1.0), axes=st.sets(st.sampled_from(EVERY), min_size=1))
def test_every_shape_meets_the_target_or_none_is_given(share: float, axes: set[Any]) -> None:
    family = family_of(SMALL)
    before = Sizes.of(SMALL.config, family)
    target = share * parameters(SMALL, family, before)
    try:
        found = shapes(SMALL, family, target=target, axes=axes, limit=10)
    except UsageError as error:
        mixture = axes <= {"experts", "expert_neurons"}
        assert ("to cut" if mixture else "nearest") in str(error) and "\n" not in str(error)
        return
    assert len(set(found)) == len(found)
    for sizes in found:
        require_met(SMALL, sizes, target)
        changed = {name for name in vars(sizes) if getattr(sizes, name) != getattr(before, name)}
        assert changed <= axes.union(*(FOLLOW.get(axis, set()) for axis in axes))


def test_other_budgets_are_met_as_well() -> None:
    family = family_of(SMOL)
    for measure, target in (("bytes", 3.2e8), ("without_embeddings", 7e7)):
        sizes = default_shape(SMOL, family, target=target, budget=measure)  # type: ignore[arg-type]
        assert abs(Budget(SMOL, family, measure)(sizes) / target - 1) <= TOLERANCE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "axes", "said"),
    [
        (2e8, AXES, "200,000,000 parameters cannot be cut out of a model of 134,515,008"),
        (2e8, AXES, "between 14,626,656 (layers=1, hidden=288, neurons=32) and 134,515,008"),
        (2e8, ("layers",), "between 31,852,224 (layers=1) and 134,515,008"),
        (0.0, AXES, "cannot be cut out"),
        (1e7, AXES, "layers=1, hidden=288, neurons=32 with 14,626,656"),
        (101e6, ("heads",), "when heads may change"),
        (1e7, ("neurons", "layers"), "when neurons (by 32s), layers may change"),
        (101e6, ("experts",), "llama has no experts to cut. Choose among neurons, hidden, layers"),
    ],
)
def test_a_target_that_cannot_be_met_is_one_line(target: float, axes: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        shapes(SMOL, family_of(SMOL), target=target, axes=axes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["70B", "8B"])
def test_the_smallest_and_the_largest_that_are_named_can_be_had(name: str) -> None:
    """Also where not all widths are looked at. To see it fail: in search.Grid, leave out the least
    width of all."""
    model = hollow(LARGE[name])
    family, axes = family_of(model), ("neurons", "layers")
    whole = parameters(model, family, Sizes.of(model.config, family))
    with pytest.raises(UsageError) as caught:
        shapes(model, family, target=2.0 * whole, axes=axes)
    least = replace(Sizes.of(model.config, family), layers=1, neurons=32)
    count = parameters(model, family, least)
    assert f"between {count:,} (layers=1, neurons=32) and {whole:,}" in str(caught.value)
    assert parameters(
        model, family, default_shape(model, family, target=float(count), axes=axes)
    ) < (1.02 * count)


@pytest.mark.parametrize(("head_dim", "legal"), [(24, {4, 8}), (64, set(range(1, 9)))])
def test_heads_and_groups_are_together_as_wide_as_quantisers_want(
    head_dim: int, legal: set[int]
) -> None:
    """Of 24 entries each, four are 96 wide. To see it fail: let any number fit."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=3360, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=16, num_key_value_heads=8, head_dim=head_dim,
    )  # fmt: skip
    model = hollow(config)
    family = family_of(model)
    for groups in range(1, 9):
        wanted: dict[Any, int] = {"groups": groups, "heads": 2 * groups}
        if groups in legal:
            assert explicit_shape(model, family, wanted).groups == groups
        else:
            with pytest.raises(UsageError, match="heads and groups times their 24 entries"):
                explicit_shape(model, family, wanted)


def test_heads_that_never_were_a_multiple_are_no_reason_to_refuse() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=288, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=9, num_key_value_heads=3, head_dim=24,
    )  # fmt: skip
    model = hollow(config)
    before = Sizes.of(config, family_of(model))
    for wanted in ({"neurons": 128}, {"groups": 2, "heads": 6}):
        found = explicit_shape(model, family_of(model), wanted)  # type: ignore[arg-type]
        assert asdict(found).items() >= wanted.items() and found.layers == before.layers


@pytest.mark.parametrize("multiple", [0, -8])
def test_sizes_are_multiples_of_something(multiple: int) -> None:
    for call in (
        lambda: shapes(SMOL, family_of(SMOL), target=1e8, multiple=multiple),
        lambda: explicit_shape(SMOL, family_of(SMOL), {"neurons": 896}, multiple),
    ):
        with pytest.raises(UsageError, match=f"cannot be multiples of {multiple}: give 1 or more"):
            call()


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ({"neurons": 900}, "neurons=896"),
        ({"neurons": 2000}, "neurons=1536"),
        ({"hidden": 480}, "hidden=576"),  # its nine heads must divide it
        ({"heads": 7}, "heads=6"),
        ({"layers": 31}, "layers=30"),
        ({"experts": 4}, "no experts to cut"),
    ],
)
def test_an_illegal_shape_names_the_nearest_legal_one(wanted: Any, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        explicit_shape(SMOL, family_of(SMOL), wanted)
    assert nearest in str(caught.value) and "\n" not in str(caught.value)


def test_a_legal_shape_is_taken_and_what_must_follows() -> None:
    before = Sizes.of(SMOL.config, family_of(SMOL))
    wanted = explicit_shape(SMOL, family_of(SMOL), {"heads": 6, "hidden": 480})
    assert wanted == replace(before, heads=6, hidden=480)
    gpt2 = hollow(GPT2Config())
    narrow = explicit_shape(gpt2, family_of(gpt2), {"hidden": 512})
    assert (narrow.hidden, narrow.heads, narrow.groups) == (512, 8, 8)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # Minitron's own shape of Mistral NeMo (arXiv:2408.11796), and others that large.
        (
            MistralConfig(
                vocab_size=1000, hidden_size=5120, intermediate_size=14336, num_hidden_layers=40,
                num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            ),
            {"hidden": 4096, "neurons": 11520},
        ),
        (
            LlamaConfig(
                vocab_size=1000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                num_attention_heads=32, num_key_value_heads=8, head_dim=128,
            ),
            {"layers": 28, "hidden": 3072, "neurons": 8192},
        ),
        (
            Qwen3MoeConfig(
                vocab_size=1000, hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=64, num_experts=128, num_experts_per_tok=8,
                moe_intermediate_size=64,
            ),
            {"experts": 90},
        ),
    ],
)  # fmt: skip
def test_of_a_large_model_every_legal_shape_can_be_named(config: Any, wanted: Any) -> None:
    """To see it fail: in search.Grid, forget what is named."""
    model = hollow(config)
    found = explicit_shape(model, family_of(model), wanted)
    assert asdict(found).items() >= wanted.items()
