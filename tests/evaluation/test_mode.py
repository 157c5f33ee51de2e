from __future__ import annotations

import pytest
import torch
from torch import nn

from nexus.evaluation.mode import observing


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
