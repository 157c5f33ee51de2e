"""The places that a cut looks at are found in every layout, and read without the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning.activations import (
    by_row,
    inverse_size,
    neurons_projection,
    norms,
    part,
    reader,
)
from nexus.pruning.families import FAMILIES, family_of, layers_of

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt", "bert", "qwen3_moe"])
def test_places_and_norms_are_found(kind: str, small: Small) -> None:
    model = small(kind)
    family = family_of(model)
    _, layers = layers_of(model, family)
    down = part(layers[1], neurons_projection(family))
    assert down is not None and 24 in down.weight.shape
    assert part(layers[1], family.heads) is not None and part(layers[1], "nothing") is None
    found = norms(model, family)
    assert all(norm.weight.shape == (16,) for norm in found.values()) and len(found) >= 7


def test_mixtral_has_no_neurons_outside_its_experts() -> None:
    assert neurons_projection(FAMILIES["mixtral"]) == ""
    assert neurons_projection(FAMILIES["llama"]) == "mlp.down_proj"
    assert neurons_projection(FAMILIES["gpt2"]) == "mlp.c_proj"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_reading_leaves_the_head_out_and_masks_padding(kind: str, small: Small, rows: Rows) -> None:
    model, batch = small(kind), rows(9, 4)
    head: list[object] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: head.append(1))
    _, layers = layers_of(model, family_of(model))
    seen: list[torch.Tensor] = []
    layers[-1].register_forward_hook(
        lambda _, __, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    read = reader(model)
    alone = replace(rows(4), input_ids=batch.input_ids[1:, :4])
    with torch.no_grad():
        read(batch)
        read(alone)
    assert not head
    torch.testing.assert_close(seen[0][1, :4], seen[1][0], rtol=1e-4, atol=1e-5)


def test_an_encoder_takes_one_document_a_row(small: Small, rows: Rows) -> None:
    packed = replace(rows(6), documents=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    with pytest.raises(UsageError, match="Set data.packing: false"):
        reader(small("bert"))(packed)


def test_rows_come_apart_again() -> None:
    value = torch.randn(6, 5)
    assert torch.equal(by_row(value, torch.ones(2, 3)), value.view(2, 3, 5))


def test_the_inverse_size_makes_the_mean_square_one() -> None:
    stream = torch.randn(2, 3, 8) * 100
    scaled = stream * inverse_size(stream).unsqueeze(-1)
    torch.testing.assert_close(scaled.pow(2).mean(-1), torch.ones(2, 3))
    assert torch.isfinite(inverse_size(torch.zeros(1, 1, 4))).all()
