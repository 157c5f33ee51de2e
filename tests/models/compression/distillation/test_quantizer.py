"""quantize(model, bits=4), as the specification promises it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.errors import UsageError
from nexus.models.compression.distillation import quantize
from nexus.quantization.linear import PackedLinear

TINY = runpy.run_path(str(Path(__file__).parents[4] / "examples" / "tiny.py"))


@pytest.fixture
def model() -> Any:
    return TINY["make_model"](layers=1, seed=1)


def test_it_is_a_model_that_runs(model: Any) -> None:
    ids = torch.arange(12)[None]
    exact = model(ids).logits
    for bits in (8, 4):
        few = quantize(model, bits=bits, group_size=32)
        assert isinstance(few.model.layers[0].mlp.up_proj, PackedLinear)
        assert few(ids).logits.shape == exact.shape
    assert torch.equal(model(ids).logits, exact)
    assert quantize(model, scheme="int8_dynamic").generate(ids, max_new_tokens=2).shape == (1, 14)


def test_layers_that_do_not_fit_are_named_in_a_warning(model: Any) -> None:
    with pytest.warns(UserWarning, match=r"not quantised: model\.layers\.0\.self_attn\.q_proj"):
        quantize(model, bits=4)


@pytest.mark.parametrize("asked", [{"bits": 5}, {}, {"bits": 4, "group_size": 7}])
def test_what_cannot_be_is_refused(model: Any, asked: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="choose|either"):
        quantize(model, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_is_not_rounded(model: Any, name: str, value: float) -> None:
    """Nor what stays as it is: logits of NaN differ from themselves.

    To see it fail: round whatever is there.
    """
    model.get_parameter(name).data.view(-1)[5] = value
    with pytest.raises(UsageError, match=f"{name} holds NaN or Inf"):
        quantize(model, bits=4, group_size=32)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8])
@pytest.mark.usefixtures("unchecked")
def test_only_types_of_weights_are_types(model: Any, dtype: Any) -> None:
    with pytest.raises(UsageError, match=r"dtype is .*pass torch\.bfloat16"):
        quantize(model, bits=4, dtype=dtype)


def test_text_makes_grids_fit_what_enters_the_layers() -> None:
    """A few inputs are strong: fitted, what leaves the layers is nearer to what it was.

    To see it fail: in quantizer.quantize, hand on no text.
    """
    model = TINY["make_model"](layers=1, seed=1)
    with torch.no_grad():
        for norm in (
            model.model.layers[0].input_layernorm,
            model.model.layers[0].post_attention_layernorm,
        ):
            norm.weight[::8] *= 30
    torch.manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, 1024))
    exact, apart = model(ids).logits, {}
    for name, data in (("rounded", None), ("fitted", [ids])):
        few = quantize(model, bits=3, group_size=32, calibration_data=data)
        apart[name] = float((few(ids).logits - exact).norm().detach())
    assert apart["fitted"] < 0.9 * apart["rounded"]
    with pytest.raises(UsageError, match="3 tokens, less than one sequence.* counts alike"):
        quantize(model, bits=4, calibration_data=[torch.arange(3)])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_adapters_are_merged_first(model: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["up_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    ids = torch.arange(12)[None]
    exact = adapted.eval()(ids).logits.detach()
    few = quantize(adapted, bits=8)(ids).logits.detach()
    assert float((few - exact).norm() / exact.norm()) < 0.1
