"""What is kept of a model is what scores highest."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nexus.errors import UsageError
from nexus.pruning.choose import choose
from nexus.pruning.families import family_of
from nexus.pruning.importance import Scores
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import cut

TINY = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))["tiny"]


def test_the_highest_scores_are_kept_in_their_order() -> None:
    model = TINY("llama")  # 3 layers, 3 groups of 2 heads, hidden 48, 40 neurons
    before = Sizes.of(model.config, family_of(model))
    scores = Scores(
        layers=torch.tensor([3.0, 1.0, 2.0]),
        hidden=torch.arange(48.0),
        neurons={layer: -torch.arange(40.0) for layer in range(3)},
        heads={layer: torch.tensor([1.0, 0, 0, 9, 5, 8]) for layer in range(3)},
        groups={layer: torch.tensor([2.0, 1.0, 3.0]) for layer in range(3)},
    )
    after = replace(before, layers=2, hidden=24, neurons=2, heads=2, groups=2)
    kept = choose(scores, model, after)
    assert kept.layers == (0, 2)
    assert kept.hidden is not None and kept.hidden.tolist() == list(range(24, 48))
    assert kept.neurons[2].tolist() == [0, 1]
    assert kept.groups[0].tolist() == [0, 2]  # the middle one has the best head, but as a whole
    assert kept.heads[0].tolist() == [0, 5]  # of its own group each
    assert kept.sizes(before) == after
    assert choose(scores, model, after, layers=(0, 1)).layers == (0, 1)
    small = cut(model, kept)
    assert Sizes.of(small.config, family_of(small)) == after


def test_a_group_goes_with_all_its_heads() -> None:
    model = TINY("llama")
    before = Sizes.of(model.config, family_of(model))
    scores = Scores(
        layers=torch.zeros(3),
        hidden=torch.zeros(48),
        heads={layer: torch.tensor([1.0, 2, 9, 9, 5, 6]) for layer in range(3)},
        groups={layer: torch.tensor([1.0, 9.0, 5.0]) for layer in range(3)},
    )
    whole = choose(scores, model, replace(before, groups=2, heads=4))
    assert whole.groups[1].tolist() == [1, 2] and whole.heads[1].tolist() == [2, 3, 4, 5]
    inside = choose(scores, model, replace(before, heads=3))
    assert inside.groups[1].tolist() == [0, 1, 2] and inside.heads[1].tolist() == [1, 2, 5]


def test_of_a_mixture_every_expert_keeps_its_own() -> None:
    model = TINY("mixtral")
    before = Sizes.of(model.config, family_of(model))
    values = torch.rand(4, before.expert_neurons)
    scores = Scores(
        layers=torch.zeros(3),
        hidden=torch.zeros(48),
        experts={layer: torch.tensor([0.0, 3, 1, 2]) for layer in range(3)},
        expert_neurons=dict.fromkeys(range(3), values),
    )
    after = replace(before, experts=2, expert_neurons=8, neurons=8)
    kept = choose(scores, model, after)
    assert kept.experts[0].tolist() == [1, 3]
    assert kept.expert_neurons[0].shape == (4, 8)
    for expert in range(4):
        best = set(values[expert].topk(8).indices.tolist())
        assert set(kept.expert_neurons[0][expert].tolist()) == best


def test_layers_that_are_named_must_be_as_many() -> None:
    model = TINY("llama")
    before = Sizes.of(model.config, family_of(model))
    scores = Scores(layers=torch.zeros(3), hidden=torch.zeros(48))
    with pytest.raises(UsageError, match="2 layers are named, but the shape has 3"):
        choose(scores, model, before, layers=(0, 1))
