"""Taylor: |w · gradient|, summed over what would go along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.importance import measure
from nexus.pruning.sizes import Sizes
from nexus.pruning.taylor import taylor

Small = Callable[..., PreTrainedModel]


def text(rows: int = 3) -> list[Batch]:
    torch.manual_seed(1)
    return [from_padded(torch.randint(40, (rows, 12)))]


def test_it_is_what_autograd_gives_of_the_plain_loss(small: Small) -> None:
    model = small("llama", tie_word_embeddings=False)
    batch = text()[0]
    scores, tokens = taylor(
        model, family_of(model), Sizes.of(model.config, family_of(model)), [batch]
    )
    assert tokens == int(batch.target_count)
    logits = model(input_ids=batch.input_ids).logits[batch.is_target]
    torch.nn.functional.cross_entropy(logits, batch.targets[batch.is_target]).backward()
    changes = {
        name: (weight.detach() * weight.grad).abs() for name, weight in model.named_parameters()
    }
    mlp = "model.layers.1.mlp"
    neurons = (
        changes[f"{mlp}.gate_proj.weight"].sum(1)
        + changes[f"{mlp}.up_proj.weight"].sum(1)
        + changes[f"{mlp}.down_proj.weight"].sum(0)
        + changes[f"{mlp}.gate_proj.bias"]
        + changes[f"{mlp}.up_proj.bias"]
    )
    torch.testing.assert_close(scores["neurons"][1], neurons, rtol=1e-4, atol=1e-7)
    layer = sum(value.sum() for name, value in changes.items() if ".layers.2." in name)
    torch.testing.assert_close(scores["layers"][2], layer, rtol=1e-4, atol=1e-7)


def test_the_split_into_batches_does_not_matter_and_nothing_is_left(small: Small) -> None:
    model = small()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    whole = text(4)[0]
    halves = [
        replace(whole, **{name: value[part] for name, value in vars(whole).items()
                          if isinstance(value, torch.Tensor)})
        for part in (slice(0, 1), slice(1, 4))
    ]  # fmt: skip
    one, other = (measure(model, some, strategy="taylor") for some in ([whole], halves))
    torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(one.groups[0], other.groups[0], rtol=1e-4, atol=1e-8)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["gpt2", "qwen3_moe", "opt", "gemma2"])
def test_every_axis_has_scores(kind: str, small: Small) -> None:
    model = small(kind)
    scores = measure(model, text(), strategy="taylor")
    assert scores.layers.gt(0).all() and scores.hidden.gt(0).all()
    assert any(value.gt(0).any() for value in (*scores.neurons.values(), *scores.experts.values()))


def test_what_has_no_loss_is_refused(small: Small, rows: Callable[..., Batch]) -> None:
    with pytest.raises(UsageError, match="writes no text. Choose activation"):
        measure(small("bert"), text(), strategy="taylor")
    with pytest.raises(UsageError, match="something to predict"):
        measure(small(), [rows(9)], strategy="taylor")
