"""The head cut off a model gives the model's own logits, over many families and head types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nexus.batch import IGNORED, PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.lm_head import Trunk, can_be_packed, head_rows, prove, split_head

# PEFT 0.21 still asks transformers by a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

VOCABULARY = 48
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", LLAMA),
    "mistral sliding": ("MistralConfig", LLAMA | {"sliding_window": 4}),
    "gemma2": ("Gemma2Config", LLAMA | {"final_logit_softcapping": 0.5, "sliding_window": 4}),
    "gemma3": ("Gemma3TextConfig", LLAMA | {"final_logit_softcapping": 0.5, "sliding_window": 4}),
    "phi3": ("Phi3Config", LLAMA),
    "olmo2": ("Olmo2Config", LLAMA),
    "granite": ("GraniteConfig", LLAMA | {"logits_scaling": 8.0}),
    "cohere": ("CohereConfig", LLAMA | {"logit_scale": 0.0625}),
    "cohere2": ("Cohere2Config", LLAMA | {"logit_scale": 0.25}),
    "gpt2": ("GPT2Config", GPT2),
    "gptj bias": ("GPTJConfig", GPT2 | {"rotary_dim": 4}),
    "phi bias": ("PhiConfig", LLAMA),
    "gpt-neox": ("GPTNeoXConfig", LLAMA),
    "minicpm3": (
        "MiniCPM3Config",
        LLAMA
        | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4}
        | {"v_head_dim": 8, "dim_model_base": 4, "num_key_value_heads": 2},
    ),
    "qwen3-moe": ("Qwen3MoeConfig", LLAMA | EXPERTS),
    "mixtral": ("MixtralConfig", LLAMA | {"num_local_experts": 4}),
}
KEPT_APART_BY_MASK_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 16} | GPT2),
    "mpt": ("MptConfig", {"vocab_size": VOCABULARY, "d_model": 16, "n_heads": 2, "n_layers": 2}),
}
OPT = ("OPTConfig", LLAMA | {"ffn_dim": 24, "word_embed_proj_dim": 16})


def tiny(family: tuple[str, dict[str, Any]], **changes: Any) -> PreTrainedModel:
    name, settings = family
    config = getattr(transformers, name)(**{**settings, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def row(*lengths: int, padding: int = 0) -> Batch:
    """One row of documents of random tokens, padded at its end."""
    pieces = [*lengths, padding]
    numbers = [*range(len(lengths)), PADDING]
    tokens = torch.randint(VOCABULARY, (1, sum(pieces)))
    owners = [torch.full((n,), number) for n, number in zip(pieces, numbers, strict=True)]
    return Batch(
        input_ids=tokens,
        targets=torch.full_like(tokens, IGNORED),
        position_ids=torch.cat([torch.arange(n) for n in pieces])[None],
        documents=torch.cat(owners)[None],
        parts=torch.zeros_like(tokens),
        tasks=torch.zeros_like(tokens),
    )


def logits(trunk: Trunk, batch: Batch) -> torch.Tensor:
    return trunk.head().logits(trunk.hidden(batch)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_is_the_model(family: str) -> None:
    model = tiny(FAMILIES[family])
    trunk = split_head(model, VOCABULARY)
    prove(trunk)
    batch = row(9)
    torch.testing.assert_close(
        logits(trunk, batch), model(batch.input_ids).logits[0].float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_of_a_row_do_not_see_each_other(family: str) -> None:
    """Each document's logits are those of the whole model run on it alone."""
    model = tiny(FAMILIES[family])
    batch = row(6, 5, 7, padding=3)
    ours = logits(split_head(model, VOCABULARY), batch)
    for document in range(3):
        where = batch.documents[0] == document
        alone = model(batch.input_ids[:, where]).logits[0].float()
        torch.testing.assert_close(ours[where], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_both_attentions_pass_the_proof(family: str, attention: str) -> None:
    model = tiny(FAMILIES[family])
    model.set_attn_implementation(attention)
    prove(split_head(model, VOCABULARY))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite"])
def test_the_proof_holds_in_half_precision(family: str, dtype: torch.dtype) -> None:
    prove(split_head(tiny(FAMILIES[family]).to(dtype), VOCABULARY))


@pytest.mark.parametrize("family", KEPT_APART_BY_MASK_ONLY)
def test_a_model_without_positions_refuses_packed_rows(family: str) -> None:
    model = tiny(KEPT_APART_BY_MASK_ONLY[family])
    with pytest.raises(UsageError, match=r"(?s)ForCausalLM.*data\.packing: false"):
        prove(split_head(model, VOCABULARY))
    with pytest.raises(UsageError, match=r"several documents.*data\.packing: false"):
        split_head(model, VOCABULARY).hidden(row(4, 5))
    assert not can_be_packed(model) and can_be_packed(tiny(FAMILIES["llama"]))


@pytest.mark.parametrize("family", [*KEPT_APART_BY_MASK_ONLY.values(), OPT, FAMILIES["llama"]])
def test_one_document_a_row_works_everywhere(family: tuple[str, dict[str, Any]]) -> None:
    model = tiny(family)
    trunk = split_head(model, VOCABULARY, packed=False)
    prove(trunk)
    batch = row(8, padding=4)
    alone = model(batch.input_ids[:, :8]).logits[0].float()
    torch.testing.assert_close(logits(trunk, batch)[:8], alone, rtol=1e-4, atol=1e-5)


def test_state_that_leaks_between_documents_is_found() -> None:
    """A convolution carries one document's end into the next one's beginning."""
    layers = {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    model = tiny(("Lfm2Config", LLAMA | layers))
    with pytest.raises(UsageError, match=r"see each other in Lfm2ForCausalLM.*sdpa.*packing"):
        prove(split_head(model, VOCABULARY))
    prove(split_head(model, VOCABULARY, packed=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_across_documents_is_found(dtype: torch.dtype) -> None:
    """An attention without masks of its own falls back to plain causal attention.

    To see it fail: in kernels/lm_head.py, `error = max(_relative_error(changed, after),
    _typical_error(after, alone))` → `error = 0.0`.
    """
    model = tiny(FAMILIES["llama"]).to(dtype)
    model.config._attn_implementation = "unmasked"
    AttentionInterface.register("unmasked", ALL_ATTENTION_FUNCTIONS["sdpa"])
    with pytest.raises(UsageError, match=r"see each other in .*attention: unmasked"):
        prove(split_head(model, VOCABULARY))


def test_a_factor_unknown_to_us_is_found() -> None:
    model = tiny(FAMILIES["granite"])
    trunk = split_head(model, VOCABULARY)
    model.config.model_type = "llama"  # as if the family were not in the table
    with pytest.raises(UsageError, match="GraniteForCausalLM.* does something between"):
        prove(trunk)


def test_the_proof_leaves_every_part_in_its_mode() -> None:
    model = tiny(FAMILIES["gpt2"], resid_pdrop=0.5).train()
    model.lm_head.eval()
    before = [part.training for part in model.modules()]
    prove(split_head(model, VOCABULARY))
    assert [part.training for part in model.modules()] == before


def test_rows_of_padding_are_not_multiplied() -> None:
    trunk = split_head(tiny(FAMILIES["llama"]), VOCABULARY - 5)
    assert logits(trunk, row(4)).shape == (4, VOCABULARY - 5)
    assert head_rows(trunk.model) == VOCABULARY


def test_a_head_smaller_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=rf"has {VOCABULARY} rows.*{VOCABULARY + 1} ids"):
        split_head(tiny(FAMILIES["llama"]), VOCABULARY + 1)


def test_a_model_without_a_head_is_refused() -> None:
    headless = tiny(FAMILIES["llama"]).model
    with pytest.raises(UsageError, match="LlamaModel has no language-model head"):
        split_head(headless, VOCABULARY)


def test_a_head_of_another_kind_is_named() -> None:
    class Quantised(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.round())

    model = tiny(FAMILIES["llama"])
    model.lm_head = Quantised(16, VOCABULARY, bias=False)
    with pytest.raises(UsageError, match="Quantised"):
        split_head(model, VOCABULARY)


def test_the_head_is_read_afresh() -> None:
    model = tiny(FAMILIES["llama"])
    trunk = split_head(model, VOCABULARY)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    assert torch.equal(trunk.head().weight, model.lm_head.weight)


@pytest.mark.parametrize("family", ["llama", "llama tied", "gemma2", "phi bias"])
def test_the_gradient_is_the_models_own(family: str) -> None:
    model = tiny(FAMILIES[family])
    batch = row(6)

    def gradients(values: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(values.square().sum(), list(model.parameters())))

    whole = gradients(model(batch.input_ids).logits.float())
    cut = gradients(logits(split_head(model, VOCABULARY), batch))
    for ours, theirs in zip(cut, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.fixture(params=["llama", "gemma2", "phi bias"])
def adapted(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model with LoRA on attention and head, whose adapters do something."""
    model = tiny(FAMILIES[request.param], tie_word_embeddings=False)
    model = peft.get_peft_model(model, lora("lm_head"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    yield model.eval()


def lora(*more: str, **settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", *more], **settings)


def test_lora_on_the_head_reaches_the_loss(adapted: Any) -> None:
    trunk = split_head(adapted, VOCABULARY)
    prove(trunk)
    batch = row(6)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    whole = torch.autograd.grad(adapted(batch.input_ids).logits.square().sum(), trained)
    cut = torch.autograd.grad(logits(trunk, batch).square().sum(), trained)
    for ours, theirs in zip(cut, whole, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_disabled_adapter_does_not_count(adapted: Any) -> None:
    trunk = split_head(adapted, VOCABULARY)
    base = adapted.get_base_model().lm_head.base_layer.weight
    assert not torch.equal(trunk.head().weight, base)
    with adapted.disable_adapter():
        assert torch.equal(trunk.head().weight, base)


def test_a_head_trained_beside_the_adapter_is_the_one_used() -> None:
    model = peft.get_peft_model(tiny(FAMILIES["llama"]), lora(modules_to_save=["lm_head"]))
    trunk = split_head(model, VOCABULARY)
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.add_(1.0)
    prove(trunk)
    assert trunk.head().weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"lora_dropout": 0.1}, "lora_dropout: 0"), ({"use_dora": True}, "DoRA")],
)
def test_adapters_that_are_no_matrix_are_refused(settings: dict[str, Any], said: str) -> None:
    model = peft.get_peft_model(tiny(FAMILIES["llama"]), lora("lm_head", **settings))
    with pytest.raises(UsageError, match=said):
        split_head(model, VOCABULARY)


def test_tokens_put_before_the_text_are_refused() -> None:
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(tiny(FAMILIES["llama"]), prompt)
    with pytest.raises(UsageError, match="PROMPT_TUNING"):
        split_head(model, VOCABULARY)
