"""Weights and moments that are spread over the processes: each writes its part, any number reads.

The parts are PyTorch's distributed checkpoints in safetensors, in the folder `shards` of a
checkpoint. A stage reads what it finds there, parts or whole tensors, however many processes wrote.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from nexus.disk import writing
from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.training.fsdp import settle
from nexus.training.parallel import Parallel
from nexus.training.snapshot import Apply, require_fit
from nexus.training.whole import MOMENTS, WEIGHTS, WholeTensors, moments_of, weights_of

SHARDS = "shards"


@dataclass(frozen=True)
class StageTensors:
    """A stage's weights and moments, written as the processes hold them: whole or in parts."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    parallel: Parallel = Parallel()

    def size(self) -> int:
        return self._whole.size()

    def write(self, folder: Path) -> None:
        settle(self.model)
        if not self._is_sharded:
            self._whole.write(folder)
            return
        tensors = {**weights_of(self.model), **moments_of(self.optimizer)}
        with writing(folder / SHARDS, self.size()), _together():
            save(
                tensors,
                storage_writer=HuggingFaceStorageWriter(
                    str(folder / SHARDS), save_distributed=True
                ),
            )

    def read(self, folder: Path) -> Apply:
        settle(self.model)
        in_parts = (folder / SHARDS).is_dir()
        if not (in_parts or self._is_sharded):
            return self._whole.read(folder)
        with _readable(folder):
            found = _found_in(folder / SHARDS) if in_parts else _found_whole(folder)
            weights, moments = self._places(found)
            if in_parts:
                _load({**weights, **moments}, folder / SHARDS)
            else:
                _fill(weights, folder / WEIGHTS)
                _fill(moments, folder / MOMENTS)

        def apply() -> None:
            with torch.no_grad():
                for name, value in weights_of(self.model).items():
                    value.copy_(weights[name])
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in moments.items():
                index, _, name = key.partition(".")
                states.setdefault(int(index), {})[name] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

        return apply

    def _places(self, found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Room for this process's part of what was found, which must fit."""
        own = weights_of(self.model)
        kept = {name: value for name, value in found.items() if not _is_moment(name)}
        require_fit(kept, own, "student")
        weights = {name: torch.empty_like(value) for name, value in own.items()}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[str, Tensor] = {}
        for key in found.keys() - kept.keys():
            index, value = int(key.partition(".")[0]), found[key]
            if index < len(trained) and value.shape == trained[index].shape:
                moments[key] = torch.empty_like(trained[index].detach(), dtype=value.dtype)
            elif index < len(trained) and value.shape == ():
                moments[key] = torch.empty((), dtype=value.dtype)
            else:
                raise NexusError(
                    f"the checkpoint does not fit the optimiser: '{key}' of shape "
                    f"{tuple(value.shape)} belongs to no weight. Start over with --fresh"
                )
        return weights, moments

    @property
    def _whole(self) -> WholeTensors:
        return WholeTensors(self.model, self.optimizer, self.parallel)

    @property
    def _is_sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for parameter in self.model.parameters())


def _is_moment(name: str) -> bool:
    return name.partition(".")[0].isdecimal()


def _found_in(shards: Path) -> dict[str, Tensor]:
    """What is there, without values."""
    entries = HuggingFaceStorageReader(str(shards)).read_metadata().state_dict_metadata
    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _found_whole(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in (folder / WEIGHTS, folder / MOMENTS):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                found[name] = opened.get_tensor(name).to("meta")
    return found


def _load(places: dict[str, Tensor], shards: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        # Every process reads for itself, and says itself if it cannot.
        load(places, storage_reader=HuggingFaceStorageReader(str(shards)), no_dist=True)


def _fill(places: Mapping[str, Tensor], file: Path) -> None:
    """Read of each tensor no more than this process's part."""
    with safe_open(file, framework="pt") as opened:
        for name, place in places.items():
            if not isinstance(place, DTensor):
                place.copy_(opened.get_tensor(name))
                continue
            sizes, offsets = compute_local_shape_and_global_offset(
                place.shape, place.device_mesh, place.placements
            )
            part = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
            place.to_local().copy_(opened.get_slice(name)[part])


@contextmanager
def _together() -> Iterator[None]:
    """What went wrong on one process, instead of a report on all of them."""
    try:
        yield
    except CheckpointException as failed:
        error, _ = next(iter(failed.failures.values()))
        raise error from failed


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        with _together():
            yield
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise Damaged(f"{folder} cannot be read ({type(error).__name__}: {error})") from None
