"""What is cut off is gone and nothing else changes, in any architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning import slice as slice_module
from nexus.pruning.activations import norms
from nexus.pruning.families import FAMILIES, family_of
from nexus.pruning.sizes import Sizes, parameters
from nexus.pruning.slice import Kept, cut

COMMON = {
    "vocab_size": 60,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT2 = {"vocab_size": 60, "n_embd": 48, "n_head": 6, "n_layer": 3, "n_positions": 32}
ENCODERS = ("bert", "roberta", "distilbert")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", COMMON | {"tie_word_embeddings": True, "attention_bias": True}),
    "mistral": ("MistralConfig", COMMON | {"head_dim": 8, "sliding_window": 4}),
    "granite": ("GraniteConfig", COMMON | {"embedding_multiplier": 3.0, "logits_scaling": 2.0}),
    "qwen2": ("Qwen2Config", COMMON),
    "qwen3": ("Qwen3Config", COMMON | {"head_dim": 12}),
    "phi3": ("Phi3Config", COMMON),
    "gemma2": ("Gemma2Config", COMMON | {"head_dim": 8, "sliding_window": 4}),
    "gemma3_text": ("Gemma3TextConfig", COMMON | {"head_dim": 8, "sliding_window": 4}),
    "olmo2": ("Olmo2Config", COMMON),
    "mixtral": ("MixtralConfig", COMMON | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", COMMON | EXPERTS | {"head_dim": 8, "mlp_only_layers": [1]}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXConfig", COMMON),
    "opt": ("OPTConfig", COMMON | {"ffn_dim": 40, "word_embed_proj_dim": 48}),
    "bert": ("BertConfig", COMMON),
    "roberta": ("RobertaConfig", COMMON | {"pad_token_id": 1}),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 60, "dim": 48, "hidden_dim": 40, "n_heads": 6, "n_layers": 3}
        | {"max_position_embeddings": 32},
    ),
}
RMS = [n for n in MODELS if n not in ENCODERS and n not in ("gpt2", "gpt_neox", "opt")]


def tiny(kind: str, **changes: Any) -> PreTrainedModel:
    name, settings = MODELS[kind]
    config = getattr(transformers, name)(**{**settings, **changes})
    maker = AutoModelForMaskedLM if kind in ENCODERS else AutoModelForCausalLM
    model = maker.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.tie_weights()
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(2, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids).logits


def sizes(model: PreTrainedModel) -> Sizes:
    return Sizes.of(model.config, family_of(model))


def by_layer(model: PreTrainedModel, index: Callable[[], torch.Tensor]) -> dict[int, torch.Tensor]:
    return {number: index() for number in range(sizes(model).layers)}


def dense_layers(kind: str) -> list[int]:
    return {"mixtral": [], "qwen3_moe": [1]}.get(kind, [0, 1, 2])


def test_every_family_is_tried() -> None:
    assert MODELS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", MODELS)
def test_every_norm_over_the_stream_is_known(kind: str) -> None:
    """Those of heads apart, and Gemma's over what attention and network add (see its row).

    To see it fail: in the row of DistilBERT, name `layer_norm` alone.
    """
    model = tiny(kind)
    flat = {
        name
        for name, part in model.named_modules()
        if isinstance(weight := getattr(part, "weight", None), torch.Tensor) and weight.dim() == 1
    }
    apart = ("q_norm", "k_norm")
    if kind.startswith("gemma"):
        apart += ("post_attention_layernorm", "post_feedforward_layernorm")
    assert norms(model, family_of(model)).keys() == {n for n in flat if not n.endswith(apart)}


@pytest.mark.parametrize("kind", MODELS)
def test_cutting_nothing_changes_nothing(kind: str) -> None:
    model = tiny(kind)
    same = cut(model, Kept())
    assert torch.equal(logits(same), logits(model))
    said = [each.config.to_dict() for each in (same, model)]
    for each in said:
        each.pop("max_window_layers", None)  # says the same as its layer_types
        each.pop("dtype")
    assert said[0] == said[1]
    own = {parameter.data_ptr() for parameter in same.parameters()}
    assert not own & {parameter.data_ptr() for parameter in model.parameters()}


@pytest.mark.parametrize("kind", MODELS)
def test_another_order_is_the_same_model(kind: str) -> None:
    """Channels, neurons, groups with their heads, and experts may lie in any order."""
    model = tiny(kind)
    size = sizes(model)
    each = size.heads // size.groups
    groups = by_layer(model, lambda: torch.randperm(size.groups))
    heads = {
        number: (
            order[:, None] * each + torch.stack([torch.randperm(each) for _ in order])
        ).flatten()
        for number, order in groups.items()
    }
    kept = Kept(
        hidden=torch.randperm(size.hidden),
        neurons={} if kind == "mixtral" else by_layer(model, lambda: torch.randperm(size.neurons)),
        heads=heads,
        groups=groups,
    )
    if size.experts:
        kept = Kept(
            hidden=kept.hidden,
            heads=heads,
            groups=groups,
            experts=by_layer(model, lambda: torch.randperm(size.experts)),
            expert_neurons=by_layer(
                model,
                lambda: torch.stack(
                    [torch.randperm(size.expert_neurons) for _ in range(size.experts)]
                ),
            ),
        )
    shuffled = cut(model, kept)
    torch.testing.assert_close(logits(shuffled), logits(model), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "mixtral"])
def test_neurons_that_are_silent_can_go(kind: str) -> None:
    model, family = tiny(kind), family_of(tiny(kind))
    numbers = dense_layers(kind)
    gone = {number: torch.randperm(40)[:16] for number in numbers}
    kept = {n: torch.tensor([i for i in range(40) if i not in gone[n].tolist()]) for n in numbers}
    if kind == "gpt2":
        gone = {n: torch.randperm(192)[:64] for n in numbers}
        kept = {n: torch.tensor([i for i in range(192) if i not in gone[n].tolist()]) for n in gone}
    for name, weight in model.named_parameters():
        if name.endswith(f"{_dense_out(kind)}.weight"):
            number = next(int(part) for part in name.split(".") if part.isdecimal())
            if number in gone:
                weight.data.index_fill_(0 if family.transposed else 1, gone[number], 0.0)
    smaller = cut(model, Kept(neurons=kept))
    torch.testing.assert_close(logits(smaller), logits(model), rtol=1e-4, atol=1e-5)
    assert sizes(smaller).neurons == len(kept[numbers[0]])


def _dense_out(kind: str) -> str:
    return "mlp.down_proj" if kind == "qwen3_moe" else FAMILIES[kind].neurons


FREE_HEADS = [k for k in MODELS if not FAMILIES[k].heads_fill_hidden and k != "olmo2"]
"""OLMo 2 takes norms over all heads together, silent or not: see test_silenced.py."""


@pytest.mark.parametrize("kind", FREE_HEADS)
def test_heads_and_groups_that_say_nothing_can_go(kind: str) -> None:
    """One head of each group, then a whole group."""
    model, family = tiny(kind), FAMILIES[kind]
    size = sizes(model)
    silent = [1, 3, 5]  # the second of two heads in each of three groups
    for name, weight in model.named_parameters():
        if name.endswith(f"{family.heads}.weight"):
            for head in silent:
                weight.data[:, head * size.head_dim : (head + 1) * size.head_dim] = 0
    half = cut(model, Kept(heads=by_layer(model, lambda: torch.tensor([0, 2, 4]))))
    torch.testing.assert_close(logits(half), logits(model), rtol=1e-4, atol=1e-5)
    for name, weight in model.named_parameters():
        if name.endswith(f"{family.heads}.weight"):
            weight.data[:, 4 * size.head_dim :] = 0
    pairs = by_layer(model, lambda: torch.tensor([0, 1, 2, 3]))
    groups = by_layer(model, lambda: torch.tensor([0, 1]))
    fewer = cut(model, Kept(heads=pairs, groups=groups))
    torch.testing.assert_close(logits(fewer), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", RMS)
def test_channels_that_are_zero_can_go(kind: str) -> None:
    """The norms make up for the mean over fewer channels. To see it fail: `_narrowing = 1`."""
    settings = {"rms_norm_eps": 1e-12}
    model, family = tiny(kind, **settings), FAMILIES[kind]
    gone = torch.tensor([1, 5, 6, 7, 20, 21, 30, 31, 40, 41, 42, 47])
    left = torch.tensor([channel for channel in range(48) if channel not in gone.tolist()])
    prefix = f"{family.layers}."
    for name, weight in model.named_parameters():
        stem = name
        if name.startswith(prefix):
            stem = prefix + name.removeprefix(prefix).partition(".")[2]
        for dim, axis in enumerate(family.axes(stem)):
            if axis == "hidden" and len(weight.shape) > 1:
                weight.data.index_fill_(dim, gone, 0.0)
            elif axis == "hidden" and family.unit_offset:
                weight.data[gone] = -1.0
            elif axis == "hidden":
                weight.data[gone] = 0.0
    smaller = cut(model, Kept(hidden=left))
    assert sizes(smaller).hidden == 36
    torch.testing.assert_close(logits(smaller), logits(model), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", [k for k in MODELS if FAMILIES[k].heads_fill_hidden])
def test_where_heads_fill_the_stream_both_go_together(kind: str) -> None:
    model = tiny(kind)
    heads = by_layer(model, lambda: torch.tensor([0, 2, 3, 5]))
    smaller = cut(model, Kept(hidden=torch.arange(32), heads=heads, groups=heads))
    assert (sizes(smaller).hidden, sizes(smaller).heads) == (32, 4)
    assert logits(smaller).isfinite().all()
    with pytest.raises(UsageError, match="must fill the hidden size: 32 takes 4 heads, not 6"):
        cut(model, Kept(hidden=torch.arange(32)))


@pytest.mark.parametrize("kind", MODELS)
def test_layers_are_left_out_and_all_of_it_is_counted_saved_and_loaded(
    kind: str, tmp_path: Path
) -> None:
    model, family = tiny(kind), FAMILIES[kind]
    kept = Kept(layers=(0, 2), vocabulary=torch.arange(50))
    if dense_layers(kind) == [0, 1, 2]:
        kept = Kept(
            layers=(0, 2),
            vocabulary=torch.arange(50),
            neurons=by_layer(model, lambda: torch.arange(32)),
        )
    smaller = cut(model, kept)
    smaller.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(2, 50, (1, 7))
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, smaller(input_ids=ids).logits)
    counted = sum(parameter.numel() for parameter in smaller.parameters())
    if kind != "qwen3_moe":  # its layers are of two kinds
        assert parameters(model, family, kept.sizes(sizes(model))) == counted
    tied = smaller.config.tie_word_embeddings
    ends = (smaller.get_input_embeddings(), smaller.get_output_embeddings())
    assert (ends[0].weight.data_ptr() == ends[1].weight.data_ptr()) == tied


@given(st.sets(st.integers(0, 39), min_size=1), st.sets(st.integers(0, 59), min_size=8))
def test_what_is_kept_keeps_its_weights(neurons: set[int], vocabulary: set[int]) -> None:
    torch.manual_seed(0)
    model = tiny("llama")
    index, ids = torch.tensor(sorted(neurons)), torch.tensor(sorted(vocabulary))
    smaller = cut(model, Kept(neurons=by_layer(model, lambda: index), vocabulary=ids))
    ours, theirs = smaller.state_dict(), model.state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(ours[name], theirs[name][index])
    assert torch.equal(ours["lm_head.weight"], theirs["lm_head.weight"][ids])


@pytest.mark.parametrize("kind", MODELS)
def test_a_matrix_that_is_cut_in_parts_is_what_it_is_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """To see it fail: in slice._Knife, take `rows` of what is left of other axes, too."""
    model = tiny(kind)
    before = Sizes.of(model.config, family_of(model))
    wanted = {"neurons": before.neurons // 2, "hidden": before.hidden}
    kept = Kept(
        layers=(0, 2),
        hidden=torch.arange(wanted["hidden"]).flip(0),
        neurons={n: torch.arange(wanted["neurons"]) for n in dense_layers(kind)},
    )
    whole = cut(model, kept).state_dict()
    monkeypatch.setattr(slice_module, "PART_BYTES", 1000)
    parts = cut(model, kept).state_dict()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_another_type_is_cast() -> None:
    model = tiny("llama").to(torch.bfloat16)
    assert cut(model, Kept()).dtype == torch.bfloat16
    assert cut(model, Kept(), dtype=torch.float32).dtype == torch.float32


def test_positions_keep_their_precision_in_any_type(tmp_path: Path) -> None:
    """As where the model is loaded in that type: so it says the same before and afterwards."""
    model: Any = tiny("llama")
    smaller: Any = cut(model, Kept(), dtype=torch.bfloat16)
    assert torch.equal(smaller.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    smaller.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(24)[None]
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(input_ids=ids).logits, smaller(input_ids=ids).logits)


def test_a_shape_that_the_configuration_refuses_is_said() -> None:
    """Llama wants its hidden size to be a multiple of its heads, though they have their own."""
    with pytest.raises(UsageError, match="llama cannot have this shape.*hidden size"):
        cut(tiny("llama"), Kept(hidden=torch.arange(40)))


@pytest.mark.parametrize("also", [{}, {"hidden": torch.arange(16)}, {"neurons": True}], ids=str)
def test_layers_that_depend_on_their_number_stay_where_they_are(also: dict[str, Any]) -> None:
    """Whatever else is cut.

    To see it fail: in slice.cut, leave `_require_same_layers` out.
    """
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=32, n_embd=32, n_layer=4, n_head=2,
        scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    if "neurons" in also:
        also = {"neurons": by_layer(model, lambda: torch.arange(32))}
    elif also:
        also |= {"heads": by_layer(model, lambda: torch.arange(1))}
        also["groups"] = also["heads"]
    with pytest.raises(UsageError, match="layers of GPT2LMHeadModel depend on their number"):
        cut(model, Kept(layers=(1, 3), **also))
    assert sizes(cut(model, Kept(layers=(0, 1), **also))).layers == 2


def test_a_token_goes_to_as_many_experts_as_are_left() -> None:
    model = tiny("qwen3_moe")
    chosen = model.config.num_experts_per_tok
    fewer = {number: torch.arange(chosen - 1) for number in range(3)}
    with pytest.raises(UsageError, match=rf"goes to {chosen} experts, and {chosen - 1} would be"):
        cut(model, Kept(experts=fewer))


def test_layers_must_keep_as_many() -> None:
    uneven = {0: torch.arange(8), 1: torch.arange(9), 2: torch.arange(8)}
    with pytest.raises(UsageError, match=r"keep 8, 9 neurons.*as many in each"):
        cut(tiny("llama"), Kept(neurons=uneven))


def test_an_unknown_architecture_is_named() -> None:
    config = transformers.BloomConfig(vocab_size=60, hidden_size=16, n_head=2, n_layer=1)
    with pytest.raises(UsageError, match=r"'bloom'.*Known are llama.*query_key_value"):
        cut(AutoModelForCausalLM.from_config(config), Kept())
