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


@contextmanager
def thawed(*models: nn.Module) -> Iterator[None]:
    """As they are right after loading, no weight frozen, so that all are computed alike.

    PyTorch multiplies frozen weights with a part of every row in another way, that copies them for
    each row: the head of a frozen teacher, asked for the last token alone, took half of the time
    of reading the prompt, and that of a student that was just loaded a twentieth.
    """
    frozen = [
        parameter
        for model in models
        for parameter in model.parameters()
        if parameter.is_floating_point()
        and not parameter.requires_grad
        and not parameter.is_inference()
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
