"""A model without weights has the sizes of the real one, and keeps what autograd would keep."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch
from transformers import MixtralConfig, PreTrainedModel

from nexus.kernels.decoder import backbone
from nexus.planning.hollow import Hollow

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))


def test_its_sizes_are_those_of_the_model() -> None:
    model = TINY["make_model"](layers=3, seed=0)
    hollow = Hollow(model.config)
    assert hollow.parameters == sum(p.numel() for p in model.parameters())
    assert hollow.head == (259, 32)


def test_fewer_layers_are_those_fewer_weights() -> None:
    config = TINY["make_model"](layers=3, seed=0).config
    one, two = Hollow(config, layers=1).parameters, Hollow(config, layers=(0, 2)).parameters
    assert Hollow(config).parameters - two == two - one > 0


def really_saved(model: PreTrainedModel, documents: int) -> int:
    """Bytes that autograd keeps of two rows of 64 tokens, in so many documents each."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    positions = torch.arange(64).remainder(64 // documents).repeat(2, 1)
    ids = torch.zeros(2, 64, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(model)(input_ids=ids, position_ids=positions, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_what_is_saved_is_what_autograd_saves_of_packed_rows() -> None:
    model = TINY["make_model"](layers=2, seed=0).train()
    told = Hollow(model.config).saved_bytes(2, 64, autocast=False)
    assert told == really_saved(model, documents=2)


def test_rows_of_one_document_need_no_mask_and_less() -> None:
    """No mask a layer, and keys and values are not repeated for the heads that share them."""
    model = TINY["make_model"](layers=2, seed=0).train()
    config = model.config
    masks = 2 * 2 * 64 * 64 * 4
    heads = config.num_attention_heads - config.num_key_value_heads
    repeated = 2 * 2 * (2 * heads * 64 * config.head_dim * 4)
    assert really_saved(model, documents=2) - really_saved(model, documents=1) == masks + repeated


def test_recomputing_keeps_less_and_rows_keep_more() -> None:
    hollow = Hollow(TINY["make_model"](layers=4, seed=0).config)
    whole = hollow.saved_bytes(2, 64, autocast=False) or 0
    assert 0 < (hollow.saved_bytes(2, 64, autocast=False, recomputed=True) or 0) < whole
    assert (hollow.saved_bytes(4, 64, autocast=False) or 0) > 1.9 * whole


def test_nobodys_random_numbers_are_used_up() -> None:
    config = TINY["make_model"](layers=1, seed=0).config
    before = torch.get_rng_state()
    Hollow(config).saved_bytes(1, 8, autocast=True)
    assert torch.equal(before, torch.get_rng_state())


def test_an_architecture_that_cannot_run_without_values_is_not_guessed_at() -> None:
    tiny = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    assert Hollow(tiny).saved_bytes(1, 8, autocast=True) is None
