"""Checkpoints: complete or absent. Written aside, flushed to disk, then renamed; never a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nexus.errors import NexusError

SCHEMA = 1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage of one run, in a directory of its own."""

    folder: Path
    keep: int = 2

    def newest(self) -> Path | None:
        """The checkpoint of the highest step; one that is not whole has another name."""
        return max(self._whole(), default=None, key=_step_of)

    def sweep(self) -> None:
        """Remove what was being written or removed when a run died. For one process alone."""
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover)

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
        """Write all that training needs to go on after `step`, then drop older checkpoints."""
        final = self.folder / f"step-{step:06d}"
        if final.exists():
            return final
        aside = self.folder / f".{final.name}"
        aside.mkdir(parents=True)
        save_file(_stored(weights_of(model)), aside / "student.safetensors")
        save_file(_optimizer_tensors(optimizer), aside / "optimizer.safetensors")
        save_file(_random_states(), aside / "random.safetensors")
        state = {"schema": SCHEMA, "step": step}
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        for file in aside.iterdir():
            _flush(file)
        _flush(aside)
        aside.rename(final)
        _flush(self.folder)
        for old in sorted(self._whole(), key=_step_of)[: -self.keep]:
            shutil.rmtree(old.rename(old.with_name(f".{old.name}")))
        return final

    def _whole(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if path.name[5:].isdecimal()]


def restore(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights, optimiser and random states back; returns what was saved beside them."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    if state["schema"] != SCHEMA:
        raise NexusError(
            f"{checkpoint} was written in format {state['schema']}, this version reads {SCHEMA}. "
            "Use the version that wrote it, or start over with --fresh"
        )
    load_weights(model, load_file(checkpoint / "student.safetensors"))
    _restore_optimizer(optimizer, load_file(checkpoint / "optimizer.safetensors"))
    random = load_file(checkpoint / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"])
    return state


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and persistent buffers, tied ones once."""
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: value for name, value in model.named_buffers() if name in persistent}
    return {name: value.detach() for name, value in tensors.items()}


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in tensors.items()}


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = weights_of(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise NexusError(
            f"the checkpoint does not fit the student: '{odd}' is in only one of them. "
            "Start over with --fresh"
        )
    for name, value in own.items():
        saved = tensors[name]
        if (saved.shape, saved.dtype) != (value.shape, value.dtype):
            raise NexusError(
                f"the checkpoint does not fit the student: '{name}' is {_described(saved)} in the "
                f"checkpoint, {_described(value)} in the student. Start over with --fresh"
            )
        value.copy_(saved)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value.contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _flush(path: Path) -> None:
    """Force to disk, so that a rename never becomes visible before what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
