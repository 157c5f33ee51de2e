"""A student of some of the teacher's layers computes what those layers compute, in any family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import decoder_layers
from nexus.pruning.depth import block_influence, evenly_spaced, keep_layers, turned
from nexus.students.layers import Layers

Rows = Callable[..., Batch]

LLAMA = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 6, "n_head": 2}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
SLIDING = {"sliding_window": 3}
TIED = {"tie_word_embeddings": True}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama tied": ("LlamaConfig", LLAMA | TIED),
    "qwen2 from layer 2 on": (
        "Qwen2Config",
        LLAMA | SLIDING | {"use_sliding_window": True, "max_window_layers": 2},
    ),
    "gemma2": ("Gemma2Config", LLAMA | SLIDING),
    "gemma3": ("Gemma3TextConfig", LLAMA | SLIDING | {"sliding_window_pattern": 3}),
    "smollm3 without positions": ("SmolLM3Config", LLAMA | {"no_rope_layer_interval": 2}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt-neo": (
        "GPTNeoConfig",
        {"vocab_size": 40, "hidden_size": 16, "num_layers": 6, "num_heads": 2, "window_size": 3}
        | {"attention_types": [[["global", "local"], 3]]},
    ),
    "gpt-neox": ("GPTNeoXConfig", LLAMA),
    "opt": ("OPTConfig", LLAMA | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "bloom": ("BloomConfig", {"hidden_size": 16} | GPT2),
    "qwen3-moe": ("Qwen3MoeConfig", LLAMA | EXPERTS | {"mlp_only_layers": [1, 4]}),
    "glm4-moe": (
        "Glm4MoeConfig",
        LLAMA
        | {"moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"first_k_dense_replace": 2, "n_shared_experts": 1},
    ),
    "lfm2": (
        "Lfm2Config",
        LLAMA | {"layer_types": ["conv", "full_attention"] * 3, "conv_L_cache": 3},
    ),
}


def tiny(family: str, **changes: Any) -> PreTrainedModel:
    name, settings = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(
        getattr(transformers, name)(**{**settings, **changes}), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tokens(length: int = 9) -> torch.Tensor:
    return torch.randint(1, 40, (2, length))


def skipping(teacher: PreTrainedModel, kept: tuple[int, ...]) -> PreTrainedModel:
    """The teacher with every other layer replaced by one that hands its input on."""

    class Nothing(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.__dict__.update({k: v for k, v in vars(layer).items() if not k.startswith("_")})

        def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            return hidden_states if self.plain else (hidden_states, None)

    skipped = copy.deepcopy(teacher)
    layers = decoder_layers(skipped)
    plain: dict[int, bool] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, output, number=number: plain.update({number: torch.is_tensor(output)})
        )
        for number, layer in enumerate(layers)
    ]
    skipped(tokens())
    for hook in hooks:
        hook.remove()
    for number in set(range(len(layers))) - set(kept):
        nothing = Nothing(layers[number])
        nothing.plain = plain[number]
        layers[number] = nothing
    return skipped


@pytest.mark.parametrize("kept", [(0, 2, 5), (1, 3, 4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_is_the_teacher_with_the_other_layers_skipped(
    family: str, kept: tuple[int, ...]
) -> None:
    teacher = tiny(family)
    student = keep_layers(teacher, kept)
    ids = tokens()
    expected = skipping(teacher, kept)(ids, use_cache=False).logits
    torch.testing.assert_close(student(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert student.config.get_text_config().num_hidden_layers == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_saved_loaded_and_writes_as_any_model(family: str, tmp_path: Path) -> None:
    student = keep_layers(tiny(family), (0, 2, 5))
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokens(5)
    assert torch.equal(loaded(ids).logits, student(ids).logits)
    assert loaded.dtype == torch.float32
    how = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    with_cache = loaded.generate(ids, generation_config=how, use_cache=True)
    without = loaded.generate(ids, generation_config=how, use_cache=False)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_numbered_anew(family: str) -> None:
    student = keep_layers(tiny(family), (1, 3, 4))
    for number, layer in enumerate(decoder_layers(student)):
        numbers = [part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx")]
        assert all(found == number for found in numbers)


@pytest.mark.parametrize("family", ["llama", "llama tied", "gpt2"])
def test_tied_stays_tied_and_nothing_is_shared_with_the_teacher(family: str) -> None:
    """To see it fail: in pruning/depth.py, `student.tie_weights()` → `student.lm_head.weight =
    torch.nn.Parameter(student.lm_head.weight.detach().clone())`.
    """
    teacher = tiny(family)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = keep_layers(teacher, (0, 5))
    head, embedding = student.get_output_embeddings(), student.get_input_embeddings()
    assert (head.weight is embedding.weight) == teacher.config.tie_word_embeddings
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_frozen_half_precision_teacher_gives_a_float32_student_to_train() -> None:
    teacher = tiny("llama").to(torch.bfloat16).requires_grad_(False)
    student = keep_layers(teacher, (0, 5))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in student.parameters())
    norm = "model.norm.weight"
    assert torch.equal(student.state_dict()[norm], teacher.state_dict()[norm].float())


def test_lists_that_are_not_by_layer_are_left_alone() -> None:
    teacher = tiny("llama", eos_token_id=[1, 2, 3, 4, 5, 6])
    assert keep_layers(teacher, (0, 5)).config.eos_token_id == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("qwen3-moe", {"mlp_only_layers": [], "decoder_sparse_step": 2}),
    ],
)
def test_layers_that_depend_on_their_number_are_refused(
    family: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="depend on their number: '.*Choose other layers"):
        keep_layers(tiny(family, **changes), (1, 2, 5))


@given(st.integers(1, 100).flatmap(lambda total: st.tuples(st.integers(1, total), st.just(total))))
def test_evenly_spaced_layers_are_even(sizes: tuple[int, int]) -> None:
    count, total = sizes
    chosen = evenly_spaced(count, total)
    assert len(set(chosen)) == count
    assert chosen[0] == 0
    if count > 1:
        assert chosen[-1] == total - 1
        gaps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
        assert max(gaps) - min(gaps) <= 1


def test_block_influence_is_one_minus_the_cosine(rows: Rows) -> None:
    teacher = tiny("llama")
    batch = rows(7)
    states = []
    for layer in decoder_layers(teacher):
        layer.register_forward_hook(lambda _, args, out: states.append((args[0][0], out[0])))
    teacher(batch.input_ids)
    expected = []
    for before, after in states:
        dots = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        expected.append(1 - dots.mean())
    torch.testing.assert_close(
        block_influence(teacher, [batch]), torch.stack(expected).detach(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turns_are_those_of_directions_and_nothing_outside_counts(dtype: torch.dtype) -> None:
    """0 for a longer vector, 1 for a right angle or no vector at all, 2 for the opposite."""
    before = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], [[1.0, 2.0]] * 4])
    after = torch.tensor([[[6.0, 8.0], [-4.0, 3.0], [3.0, 4.0], [1.0, 1.0]], [[-2.0, -4.0]] * 4])
    inside = torch.tensor([[True, True, True, False], [True, False, False, False]])
    before[~inside], after[~inside] = float("nan"), float("inf")
    found = turned(before.to(dtype), after.to(dtype), inside)
    torch.testing.assert_close(float(found), 0.0 + 1.0 + 1.0 + 2.0, atol=1e-6, rtol=0)


def test_neither_padding_nor_the_cut_into_batches_changes_the_influence(rows: Rows) -> None:
    teacher = tiny("llama").train()
    batch = rows(9, 4, 6)
    whole = block_influence(teacher, [batch])
    assert teacher.training
    torch.testing.assert_close(
        block_influence(teacher, [batch.rows(0, 1), batch.rows(1, 3)]), whole
    )
    batch.input_ids[batch.documents < 0] = 7
    torch.testing.assert_close(block_influence(teacher, [batch]), whole)


def test_a_layer_that_does_nothing_goes_first(rows: Rows) -> None:
    teacher = tiny("llama")
    with torch.no_grad():
        for number in (1, 4):
            for name, parameter in decoder_layers(teacher)[number].named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    parameter.zero_()
    influence = block_influence(teacher, [rows(8)])
    torch.testing.assert_close(influence[[1, 4]], torch.zeros(2), atol=1e-6, rtol=0)
    chosen = Layers(count=4).choose(teacher, [rows(8)])
    assert chosen == (0, 2, 3, 5)


def test_equal_influence_keeps_the_lower_layer(rows: Rows) -> None:
    teacher = tiny("llama")
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    influence = block_influence(teacher, [rows(8)])
    assert len(set(influence.tolist())) == 1
    assert Layers(count=2).choose(teacher, [rows(8)]) == (0, 1)


def test_influence_needs_data(rows: Rows) -> None:
    with pytest.raises(UsageError, match="measures layers on text.*evenly_spaced"):
        Layers(count=2).choose(tiny("llama"), [])


def test_layers_that_cannot_be_watched_are_said(rows: Rows) -> None:
    teacher = tiny("llama")
    layer = decoder_layers(teacher)[2]
    layer._compiled_call_impl = layer.forward  # compiled code may skip hooks that come later
    with pytest.raises(UsageError, match="before the teacher's layers are compiled"):
        block_influence(teacher, [rows(5)])
