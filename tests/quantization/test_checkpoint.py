"""Saved and loaded it is the same model, here and where compressed-tensors reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nexus.errors import UsageError
from nexus.hub import Dtype, ModelSource, load_model
from nexus.quantization.linear import DynamicLinear, PackedLinear
from nexus.quantization.quantize import quantize
from nexus.quantization.scheme import Scheme, scheme_of

ALL = [
    scheme_of(8),
    scheme_of(4),
    scheme_of(4, group_size=32, symmetric=False),
    scheme_of(3, group_size=32),
    scheme_of(scheme="int8_dynamic"),
]


@pytest.mark.parametrize("scheme", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_logits_come_out_of_what_was_saved(
    make,
    ids,
    tmp_path: Path,
    scheme: Scheme,
    dtype: torch.dtype,  # type: ignore[no-untyped-def]
) -> None:
    model = quantize(make(dtype, attention_bias=True), scheme).model
    model(ids[:, :2])  # kernels have run
    model.save_pretrained(tmp_path)
    again = load(tmp_path, "auto")
    layer = again.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, DynamicLinear if scheme.dynamic else PackedLinear)
    assert again.dtype == dtype and again.config.tie_word_embeddings
    for some in (ids, ids[:, :3]):
        assert torch.equal(again(some).logits, model(some).logits)
    again.save_pretrained(tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_kept_layers_are_read_as_they_were(make, ids, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = quantize(make(intermediate_size=96), scheme_of(4)).model
    model.save_pretrained(tmp_path)
    again = load(tmp_path, "auto")
    assert type(again.get_submodule("model.layers.0.mlp.down_proj")) is torch.nn.Linear
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_it_can_be_held_in_another_type(make, ids, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = quantize(make(torch.bfloat16), scheme_of(4)).model
    model.save_pretrained(tmp_path)
    again = load(tmp_path, "float32")
    assert again.dtype == torch.float32
    exact = again(ids).logits
    assert float((model(ids).logits - exact).norm() / exact.norm()) < 0.02


def test_models_that_others_quantised_otherwise_are_refused(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"quantised \(gptq"):
        load(tmp_path, "auto")


@pytest.mark.parametrize("scheme", [scheme for scheme in ALL if scheme.symmetric], ids=str)
def test_plain_transformers_loads_the_same_weights(
    make,
    ids,
    tmp_path: Path,
    scheme: Scheme,  # type: ignore[no-untyped-def]
) -> None:
    pytest.importorskip("compressed_tensors")
    model = quantize(make(), scheme).model
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).requires_grad_(False)
    exact = model(ids).logits
    found = plain(ids).logits
    assert float((found - exact).norm() / exact.norm()) < (0.02 if scheme.dynamic else 1e-5)
    for name, part in model.named_modules():
        if isinstance(part, PackedLinear | DynamicLinear):
            assert torch.equal(plain.get_submodule(name).weight, part.grid().values())


def load(folder: Path, dtype: Dtype) -> torch.nn.Module:
    model = load_model(ModelSource(model=str(folder), dtype=dtype), Path())
    return model.requires_grad_(False)
