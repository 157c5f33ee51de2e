"""A model in few bits: what goes, what stays, and that it is still a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from nexus.errors import UsageError
from nexus.quantization.grid import round_to_grid
from nexus.quantization.linear import DynamicLinear, PackedLinear
from nexus.quantization.quantize import HEAD, held_in, plan, quantize
from nexus.quantization.scheme import Scheme, scheme_of
from nexus.ties import is_tied

ALL = [scheme_of(8), scheme_of(4), scheme_of(3, group_size=32), scheme_of(scheme="int8_dynamic")]


@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_every_linear_layer_but_the_head_is_in_few_bits(make, ids, scheme: Scheme) -> None:  # type: ignore[no-untyped-def]
    model: PreTrainedModel = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = quantize(model, scheme)
    kind = DynamicLinear if scheme.dynamic else PackedLinear
    few = [name for name, part in found.model.named_modules() if isinstance(part, kind)]
    assert sorted(few) == sorted(found.layers) and len(few) == 14
    assert found.kept == {"lm_head": HEAD} and not found.left_out
    assert is_tied(found.model)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found.model(ids).logits.isfinite().all()


def test_it_computes_what_the_rounded_weights_compute(make, ids) -> None:  # type: ignore[no-untyped-def]
    model, scheme = make(), scheme_of(4, symmetric=False)
    found = quantize(model, scheme).model
    for name, layer in plan(model, scheme)[0].items():
        assert name in dict(found.named_modules())
        layer.weight.data = round_to_grid(layer.weight, 4, 64, symmetric=False).values()
    assert torch.equal(found(ids).logits, model(ids).logits)


def test_it_writes_text(make, ids) -> None:  # type: ignore[no-untyped-def]
    model = quantize(make(torch.bfloat16), scheme_of(4)).model
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    written = model.generate(ids[:1, :4], use_cache=True, **options)
    again = model.generate(ids[:1, :4], use_cache=True, **options)
    assert written.shape == (1, 10) and torch.equal(written, again)


def test_fewer_bits_are_further_away(make, ids) -> None:  # type: ignore[no-untyped-def]
    model = make()
    exact = model(ids).logits.log_softmax(-1)

    def divergence(scheme: Scheme) -> float:
        found = quantize(model, scheme).model(ids).logits.log_softmax(-1)
        return float((exact.exp() * (exact - found)).sum(-1).mean())

    eight, four, three = (divergence(scheme_of(bits)) for bits in (8, 4, 3))
    assert 0 < eight < four < three


def test_what_cannot_be_quantised_is_named(make) -> None:  # type: ignore[no-untyped-def]
    found = quantize(make(intermediate_size=96), scheme_of(4))
    assert set(found.left_out) == {f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)}
    assert "rows of 96" in next(iter(found.left_out.values()))
    ignored = vars(found.model.config)["quantization_config"]["ignore"]
    assert set(ignored) == {*found.left_out, "lm_head"}


def test_groups_that_fit_nowhere_are_refused_with_those_that_do(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"\(of 64, 128\): choose 64, 32, 16, 8"):
        quantize(make(), scheme_of(4, group_size=48))


def test_weights_that_are_no_linear_layers_are_refused() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    )
    said = r"transformer\.h\.0\.attn\.c_attn and 3 more are Conv1D.*--to openvino --bits 8"
    with pytest.raises(UsageError, match=said):
        quantize(model, scheme_of(8))


def test_what_an_encoder_decides_with_is_its_head() -> None:
    """To see it fail: in quantize.plan, leave `body` out."""
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64,
        )
    )  # fmt: skip
    found = quantize(model, scheme_of(8))
    assert found.kept == {"classifier": HEAD} and "bert.pooler.dense" in found.layers


def test_nothing_is_quantised_twice(make) -> None:  # type: ignore[no-untyped-def]
    once = quantize(make(), scheme_of(8)).model
    with pytest.raises(UsageError, match="quantised already"):
        quantize(once, scheme_of(4))


def test_biases_are_kept(make, ids) -> None:  # type: ignore[no-untyped-def]
    model = make(attention_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    found = quantize(model, scheme_of(8)).model
    exact = model(ids).logits
    assert float((found(ids).logits - exact).norm() / exact.norm()) < 0.05


def test_another_type_leaves_what_is_not_saved_as_it_was(make) -> None:  # type: ignore[no-untyped-def]
    model = make()
    frequencies = model.model.rotary_emb.inv_freq
    held_in(model, torch.bfloat16)
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq is frequencies
    found = quantize(make(), scheme_of(4), dtype=torch.bfloat16).model
    types = {tensor.dtype for tensor in found.state_dict().values() if tensor.is_floating_point()}
    assert types == {torch.bfloat16}


def test_importance_moves_the_grid_towards_what_counts(make) -> None:  # type: ignore[no-untyped-def]
    model, name = make(), "model.layers.0.mlp.down_proj"
    weights = torch.ones(128)
    weights[:4] = 1e4
    exact = model.get_submodule(name).weight

    def error(**how: object) -> float:
        made = quantize(model, scheme_of(3), **how).model.get_submodule(name)  # type: ignore[arg-type]
        assert isinstance(made, PackedLinear)
        return float(((made.grid().values() - exact).square() * weights).sum())

    assert error(importance={name: weights}) < error()
