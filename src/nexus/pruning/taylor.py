"""How much the loss is expected to change when something goes, to the first order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.kernels.chunked_head import Workspace, chunked_head
from nexus.kernels.decoder import evaluated
from nexus.kernels.lm_head import head_rows, split_head
from nexus.kernels.sweeps import Losses
from nexus.pruning.activations import hooked
from nexus.pruning.depth_search import negative_log
from nexus.pruning.families import Family
from nexus.pruning.magnitude import coupled
from nexus.pruning.progress import Progress
from nexus.pruning.sizes import Sizes
from nexus.signals import Headed

Sums = dict[str, Tensor]


def taylor(
    model: PreTrainedModel,
    family: Family,
    sizes: Sizes,
    batches: Iterable[Batch],
    progress: Progress | None = None,
) -> tuple[dict[str, Any], int]:
    """Σ |w · ∂L/∂w| over all entries that would go along, for every axis, and on how many targets.

    L is the loss of a language model on all of the text (arXiv:2305.11627, vector-wise, first
    order): forward and backward, three times the price of activations. The gradient is summed in
    fp32, which takes four bytes a parameter; the model's own gradients are not kept.

    Raises:
        UsageError: The model writes no text, or there is nothing to predict.
    """
    if not model.can_generate():
        raise UsageError(
            f"pruning strategy 'taylor' needs a language model's loss, but {type(model).__name__} "
            "writes no text. Choose activation"
        )
    progress = progress or Progress()
    sums: Sums = progress.begin() or {"targets": torch.zeros((), dtype=torch.long)}
    trunk = split_head(model, head_rows(model))
    workspace = Workspace()
    with evaluated(model), _trained(model), hooked(_hooks(model, sums)), torch.enable_grad():
        for batch in progress.rest(batches):
            batch = batch.to(model.device)
            hidden = trunk.hidden(batch)[batch.is_target]
            losses = chunked_head(
                Headed(hidden, trunk.head()), None, batch.at_targets(), Losses((negative_log,)),
                torch.ones(1, device=hidden.device), workspace=workspace,
            )  # fmt: skip
            losses.total.backward()  # type: ignore[no-untyped-call]
            sums["targets"] += len(hidden)
            size = sum(value.numel() * value.element_size() for value in sums.values())
            progress.done(lambda: {name: value.cpu() for name, value in sums.items()}, size)
    tokens = int(sums["targets"])
    if not tokens:
        raise UsageError(
            "pruning strategy 'taylor' needs calibration text with something to predict, but there "
            "is none. Add text, or choose magnitude"
        )

    def amount(name: str, weight: Tensor) -> Tensor | None:
        return (weight.detach().float() * sums[name].to(weight.device)).abs() / tokens

    return coupled(model, family, sizes, amount), tokens


def _hooks(model: PreTrainedModel, sums: Sums) -> Iterator[Any]:
    """Add each gradient to its sum as soon as it is there, and drop it."""

    def adding(name: str) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is not None:
                sums[name] = sums[name].to(gradient.device).add_(gradient)
            parameter.grad = None

        return add

    for name, parameter in model.named_parameters():
        sums.setdefault(name, torch.zeros_like(parameter, dtype=torch.float32))
        asked: Any = parameter
        yield asked.register_post_accumulate_grad_hook(adding(name))


@contextmanager
def _trained(model: PreTrainedModel) -> Iterator[None]:
    """Every weight asks for a gradient, whether it did or not; afterwards as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)
