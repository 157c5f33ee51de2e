"""Models are put into fp32 and back without a bit lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nexus.training.invariants.exact import (
    as_it_was,
    can_be_exact,
    norm,
    prepared,
    seeded,
    weights_kept,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_is_widened_and_narrowed_again(
    scene: SimpleNamespace, dtype: torch.dtype, tied: bool
) -> None:
    model = scene.make_model(tied=tied).to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with as_it_was(model, exact=True):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert not model.training
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert {weight.dtype for weight in model.parameters()} == {dtype} and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with as_it_was(model, exact=False):
        assert {weight.dtype for weight in model.parameters()} == {dtype}


def test_gradients_that_were_there_are_there_again(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    first = next(model.parameters())
    first.grad = kept = torch.ones_like(first)
    with as_it_was(model, exact=True):
        first.grad = None
    assert first.grad is kept


def test_models_that_run_in_halves_only_are_known(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    assert can_be_exact(model)
    model.config._attn_implementation = "flash_attention_2"
    assert not can_be_exact(model)
    other = scene.make_model()
    other.config.quantization_config = {"bits": 4}
    assert not can_be_exact(other)


def test_an_adapter_is_awake_inside_and_gone_afterwards(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    names = [name for name, _ in model.named_parameters()]
    with prepared(model, scene.make_settings(lora={"rank": 2})) as adapted:
        second = [p for name, p in adapted.named_parameters() if "lora_B" in name]
        assert second and all(bool(weight.any()) for weight in second)
        assert not model.config.use_cache
    assert [name for name, _ in model.named_parameters()] == names
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.config.use_cache


def test_weights_that_were_moved_are_put_back(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(KeyError), weights_kept(model) as trained:
        for weight in trained:
            weight.data.add_(1.0)
        raise KeyError
    pairs = zip(model.parameters(), before, strict=True)
    assert all(torch.equal(now, was) for now, was in pairs)


def test_random_numbers_go_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(torch.device("cpu")):
        one = torch.rand(3)
    with seeded(torch.device("cpu")):
        assert torch.equal(torch.rand(3), one)
    assert torch.equal(torch.rand(2), expected)


def test_the_norm_of_several_tensors() -> None:
    assert norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == 5.0
    assert norm([]) == 0.0
