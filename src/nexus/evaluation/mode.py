"""Looking at models without touching them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def observing(*models: nn.Module) -> Iterator[None]:
    """Without gradient and in eval mode; afterwards every submodule is back in its own mode."""
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
