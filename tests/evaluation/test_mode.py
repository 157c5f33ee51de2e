from __future__ import annotations

import pytest
import torch
from torch import nn

from nexus.evaluation.mode import observing, thawed


def test_models_are_observed_in_eval_mode_and_each_part_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    model.train()
    model[1].eval()
    with observing(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_a_failure_restores_the_modes_too() -> None:
    model = nn.Dropout()
    with pytest.raises(KeyError), observing(model):
        raise KeyError
    assert model.training


def test_what_is_frozen_is_thawed_for_a_while_and_whole_numbers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model.whole = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(KeyError), observing(model), thawed(model, model):
        assert all(part.requires_grad == part.is_floating_point() for part in model.parameters())
        assert not model[0](torch.ones(2)).requires_grad
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == before
