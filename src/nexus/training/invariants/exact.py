"""Models in the precision in which proofs are sharp, and as they were afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus.kernels.decoder import without_adapters
from nexus.training.prepare import prepare
from nexus.training.settings import TrainSpec

HALF = (torch.bfloat16, torch.float16)

ADAPTER_SIZE = 0.02
"""The spread that an adapter's second factor is given in place of zero, behind which the first
factor has no gradient."""


def can_be_exact(model: nn.Module) -> bool:
    """Whether it runs in fp32: not if its weights are quantised or its attention takes halves."""
    config = without_adapters(model).config
    quantised = getattr(config, "quantization_config", None) is not None
    return not quantised and "flash" not in str(config._attn_implementation)


@contextmanager
def as_it_was(model: nn.Module, exact: bool) -> Iterator[None]:
    """Inside in eval mode, and in fp32 if `exact`; afterwards as before, bit for bit.

    Half precision is widened in place, tensor by tensor, and narrowed again, which loses nothing
    as long as nobody changes the weights.
    """
    modes = [(part, part.training) for part in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    halves = [
        (tensor, tensor.dtype)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in HALF and exact
    ]
    model.eval()
    try:
        for tensor, _ in halves:
            tensor.data = tensor.data.float()
        yield
    finally:
        for weight, wanted, gradient in weights:
            weight.requires_grad_(wanted).grad = None
            if gradient is not None:
                weight.grad = gradient
        for tensor, dtype in halves:
            tensor.data = tensor.data.to(dtype)
        for part, training in modes:
            part.training = training


@contextmanager
def prepared(student: PreTrainedModel, settings: TrainSpec) -> Iterator[nn.Module]:
    """The student as a stage trains it, adapter included; afterwards without it."""
    uses_cache, weights = student.config.use_cache, list(student.parameters())
    trained = [weight.requires_grad for weight in weights]
    plain = {"compile": False, "gradient_checkpointing": False, "precision": "fp32"}
    with seeded(student.device):
        model = prepare(student, settings.model_copy(update=plain))
        _wake_adapters(model)
    try:
        yield model.eval()
    finally:
        if model is not student:
            cast(PreTrainedModel, model).unload()  # type: ignore[operator]
        for weight, wanted in zip(weights, trained, strict=True):
            weight.requires_grad_(wanted)
        student.config.use_cache = uses_cache


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Inside, random numbers are always the same; outside, they go on as if nothing had been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def weights_kept(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The weights that are trained, which may be moved inside; afterwards what they were."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    saved = [weight.detach().clone() for weight in trained]
    try:
        yield trained
    finally:
        with torch.no_grad():
            for weight, value in zip(trained, saved, strict=True):
                weight.copy_(value)


@torch.no_grad()
def _wake_adapters(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            weight.normal_(std=ADAPTER_SIZE)


def norm(tensors: list[Tensor]) -> float:
    """The length of all the tensors together."""
    squares = [torch.linalg.vector_norm(t, dtype=torch.float64) ** 2 for t in tensors]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
