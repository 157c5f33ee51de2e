"""Weights and moments that one process holds whole, as DDP has them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.training.parallel import Parallel
from nexus.training.snapshot import Apply, load_tensors, require_fit, save_tensors

WEIGHTS, MOMENTS = "student.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class WholeTensors:
    """All weights and moments. The first process writes, and every process reads."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    parallel: Parallel = Parallel()

    def size(self) -> int:
        weights = weights_of(self.model).values()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        return sum(_bytes(value) for value in weights) + 2 * sum(_bytes(p) for p in trained)

    def write(self, folder: Path) -> None:
        if self.parallel.is_main:
            save_tensors(weights_of(self.model), folder / WEIGHTS)
            save_tensors(moments_of(self.optimizer), folder / MOMENTS)

    def read(self, folder: Path) -> Apply:
        weights = load_tensors(folder / WEIGHTS)
        require_fit(weights, weights_of(self.model), "student")
        states = _states(self.optimizer, load_tensors(folder / MOMENTS), folder / MOMENTS)

        def apply() -> None:
            _copy(weights, weights_of(self.model))
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

        return apply


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and persistent buffers, tied ones once."""
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: value for name, value in model.named_buffers() if name in persistent}
    return {name: value.detach() for name, value in tensors.items()}


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, by the number of the weight and the name of the moment."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


@torch.no_grad()
def _copy(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, value in own.items():
        value.copy_(saved[name])


def _states(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], file: Path
) -> dict[int, dict[str, Tensor]]:
    """Moments by weight, each of them of the shape of its weight or a number."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, dot, name = key.partition(".")
        if not (dot and index.isdecimal()):
            raise Damaged(f"{file} holds '{key}', which is no moment")
        if int(index) >= len(trained) or value.shape not in (trained[int(index)].shape, ()):
            raise NexusError(
                f"the checkpoint does not fit the optimiser: '{key}' of shape "
                f"{tuple(value.shape)} belongs to no weight. Start over with --fresh"
            )
        states.setdefault(int(index), {})[name] = value
    return states


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
