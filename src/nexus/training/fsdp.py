"""Weights spread over the processes: FSDP2, a group a decoder layer and one for the rest."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from nexus.errors import NexusError, UsageError
from nexus.kernels.decoder import decoder_layers
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec

FITS_SHARE = 0.6
"""How much of a GPU weights, gradients and moments may take; activations need the rest."""


@dataclass(frozen=True)
class Sharded:
    """A model of which each process holds its part of every weight, and the way back."""

    root: nn.Module
    model: nn.Module
    hollow: nn.Module
    """The same model without values."""

    def whole(self) -> nn.Module:
        """An ordinary model with all weights, on every process. All call this together."""
        settle(self.root)
        values = [_gathered(parameter) for parameter in self.model.parameters()]
        return _with_values(self.hollow, values)

    def whole_on(self, parallel: Parallel) -> nn.Module | None:
        """The same on the first process alone. All call this together."""
        settle(self.root)
        values = []
        for parameter in self.model.parameters():
            value = _gathered(parameter)
            if parallel.is_main:
                values.append(value)
        return _with_values(self.hollow, values) if parallel.is_main else None


def strategy(
    settings: TrainSpec, student: nn.Module, teacher: nn.Module, parallel: Parallel
) -> Literal["ddp", "fsdp2"]:
    """How the processes share the work: as told, or so that it fits, the same on all of them."""
    if parallel.world == 1:
        return "ddp"  # nothing to share
    if settings.parallel != "auto":
        return settings.parallel
    if parallel.device.type != "cuda":
        return "ddp"
    room = torch.cuda.get_device_properties(parallel.device).total_memory
    needed = _bytes_in_full(student) + _bytes_in_full(teacher)
    return "fsdp2" if parallel.any(needed > FITS_SHARE * room) else "ddp"


def shard(root: nn.Module, model: nn.Module) -> Sharded:
    """Spread the weights of `model` over all processes, those of the first one, in place.

    A layer's weights are together while it computes, forwards and backwards; all others, head and
    embedding among them, while `root.forward` runs and until its gradient is done. They keep their
    type: what is computed is what one process computes.

    Args:
        root: the module that is called; its forward calls the model's parts.
        model: a transformers causal language model inside of it, or one that PEFT wraps.

    Raises:
        UsageError: if the model cannot be told apart into layers that share no weight.
    """
    layers = list(decoder_layers(model))
    _refuse_shared(model, layers)
    hollow = _without_values(model)
    with torch.no_grad():
        for tensor in _tensors(model):
            dist.broadcast(tensor, src=0)
    for layer in layers:
        fully_shard(layer)
    fully_shard(root)
    require_sharded(root)
    return Sharded(root, model, hollow)


def settle(root: nn.Module) -> None:
    """Let go of the weights that are still together after a forward pass without a backward one.

    While they are, whatever is written into them is forgotten afterwards.
    """
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def require_sharded(module: nn.Module) -> None:
    """Make sure that no process holds any weight in full.

    Raises:
        NexusError: names the first one that is not sharded.
    """
    for name, parameter in module.named_parameters():
        if not isinstance(parameter, DTensor):
            raise NexusError(
                f"'{name}' of {tuple(parameter.shape)} is held in full by every process, although "
                "train.parallel is fsdp2. Set it to ddp, or use another architecture"
            )


def _refuse_shared(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    owners = Counter(id(p) for layer in layers for p in set(layer.parameters()))
    everywhere = Counter(
        id(p)
        for part in model.modules()
        for p in part._parameters.values()
        if p is not None and id(p) in owners
    )
    inside = Counter(
        id(p)
        for layer in layers
        for part in layer.modules()
        for p in part._parameters.values()
        if p is not None
    )
    for name, parameter in model.named_parameters():
        key = id(parameter)
        if owners[key] > 1 or everywhere[key] > inside[key]:
            raise UsageError(
                f"train.parallel is fsdp2, but '{name}' belongs to several parts of "
                f"{type(model).__name__}, which are sharded apart. Set it to ddp"
            )


def _without_values(model: nn.Module) -> nn.Module:
    """A copy that takes no memory for its weights. Tied ones stay tied."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, dict(empty))


def _with_values(hollow: nn.Module, values: Iterable[Tensor]) -> nn.Module:
    filled = {
        id(p): nn.Parameter(value, requires_grad=p.requires_grad)
        for p, value in zip(hollow.parameters(), values, strict=True)
    }
    return copy.deepcopy(hollow, dict(filled))


def _gathered(parameter: nn.Parameter) -> Tensor:
    value = parameter.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def _bytes_in_full(model: nn.Module) -> int:
    """Weights, and of those that are trained a gradient and two moments as well."""
    return sum(
        p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in model.parameters()
    )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from (parameter.detach() for parameter in model.parameters())
    yield from (buffer for buffer in model.buffers())
