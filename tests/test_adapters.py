"""A model without adapters is itself. Those with some: see the tests of hub."""

from __future__ import annotations

import torch

from nexus.adapters import merged


def test_a_plain_model_is_itself() -> None:
    model = torch.nn.Linear(2, 2)
    assert merged(model) is model
