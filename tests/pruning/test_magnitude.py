"""How large weights are, in every layout: counted by setting weights to zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from nexus.pruning.families import family_of
from nexus.pruning.magnitude import magnitudes, projections
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept, cut

Small = Callable[..., PreTrainedModel]


def squares(model: PreTrainedModel) -> float:
    """Of all matrices."""
    return float(
        sum(each.detach().double().pow(2).sum() for each in model.parameters() if each.dim() > 1)
    )


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt", "bert", "qwen3_moe"])
def test_what_a_cut_takes_away_is_what_was_counted(kind: str, small: Small) -> None:
    """A model without one neuron in every layer has lost exactly these neurons' squares."""
    model = small(kind)
    family = family_of(model)
    found = magnitudes(model, family, Sizes.of(model.config, family))
    gone = {layer: value.pow(2)[5] for layer, value in found["neurons"].items()}
    rest = torch.tensor([n for n in range(24) if n != 5])
    narrow = cut(model, Kept(neurons=dict.fromkeys(gone, rest)))
    lost = squares(model) - squares(narrow)
    assert lost == pytest.approx(float(sum(gone.values())), rel=1e-4) and lost > 0.1


def test_heads_with_their_groups(small: Small) -> None:
    model = small()
    family = family_of(model)
    found = magnitudes(model, family, Sizes.of(model.config, family))
    heads, groups = torch.tensor([0, 1]), torch.tensor([0])
    narrow = cut(
        model, Kept(heads=dict.fromkeys(range(3), heads), groups=dict.fromkeys(range(3), groups))
    )
    gone = sum(float(found["groups"][layer][1] ** 2) for layer in range(3))
    assert squares(model) - squares(narrow) == pytest.approx(gone, rel=1e-4)
    assert found["heads"][0].shape == (4,)


def test_experts_and_their_neurons(small: Small) -> None:
    model = small("qwen3_moe")
    family = family_of(model)
    found = magnitudes(model, family, Sizes.of(model.config, family))
    experts = model.model.layers[0].mlp.experts
    parts = (experts.gate_up_proj[1][3], experts.gate_up_proj[1][15], experts.down_proj[1][:, 3])
    size = torch.cat(parts).norm()
    torch.testing.assert_close(found["expert_neurons"][0][1, 3], size)
    router = model.model.layers[0].mlp.gate.weight[1].pow(2).sum()
    whole = experts.gate_up_proj[1].pow(2).sum() + experts.down_proj[1].pow(2).sum() + router
    torch.testing.assert_close(found["experts"][0][1], whole.sqrt())


def test_channels_count_embedding_and_layers(small: Small) -> None:
    model = small()
    family = family_of(model)
    found = magnitudes(model, family, Sizes.of(model.config, family))
    total = sum(
        p[:, 2].pow(2).sum() if p.shape[1] == 16 else 0 * p.sum()
        for n, p in model.named_parameters()
        if p.dim() == 2 and "o_proj" not in n and "down_proj" not in n
    ) + sum(
        p[2].pow(2).sum()
        for n, p in model.named_parameters()
        if p.dim() == 2 and ("o_proj" in n or "down_proj" in n)
    )
    torch.testing.assert_close(found["hidden"][2], total.sqrt())


@pytest.mark.parametrize(("kind", "name"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj")])
def test_projections_are_the_weights_that_read(kind: str, name: str, small: Small) -> None:
    model = small(kind)
    family = family_of(model)
    norms = projections(model, family, Sizes.of(model.config, family))
    prefix = "model.layers" if kind == "llama" else "transformer.h"
    weight = dict(model.named_modules())[f"{prefix}.1.{name}"].weight
    wanted = weight.norm(dim=0 if kind == "llama" else 1)
    torch.testing.assert_close(norms["neurons"][1], wanted)
    assert norms["heads"][1].shape == (4,)
