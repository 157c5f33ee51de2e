"""Snapshot: what a checkpoint holds of a stage, how it gets into a folder and out of it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nexus.disk import writing
from nexus.durable import Damaged
from nexus.errors import NexusError, UsageError
from nexus.spec import Spec
from nexus.teachers.teacher import Teacher
from nexus.training.parallel import Parallel

SCHEMA = 2

_NO_STATE = (
    FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
)  # fmt: skip

Apply = Callable[[], None]
"""Puts in place what was read. Until it is called nothing is changed."""


class Tensors(Protocol):
    """Weights and moments, on one process or spread over several."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What holds the moments, and the learning rate of each group."""

    def size(self) -> int:
        """About how many bytes all processes together will write."""

    def write(self, folder: Path) -> None:
        """Write this process's files, under names that no other process writes."""

    def read(self, folder: Path) -> Apply:
        """Check what is there against the student and the optimiser, and change nothing yet.

        Raises:
            Damaged: if it cannot be what was written.
            NexusError: if it is whole, and of another student or optimiser.
        """


class State(Spec):
    """state.json, its format number apart."""

    stage: str
    step: int
    """Steps that are done."""
    tokens: int
    """Tokens of training data that the stage has taken so far."""
    metrics_bytes: int
    """How long metrics.jsonl was."""
    world: int
    """How many processes wrote."""
    groups: tuple[dict[str, Any], ...]
    """The optimiser's groups, their weights apart."""
    extra: dict[str, Any]


@dataclass
class Snapshot:
    """All that training needs to go on: what a checkpoint is written from and read into.

    `step`, `metrics_bytes` and `extra` are set before a checkpoint is saved, and by restoring one.
    """

    stage: str
    tensors: Tensors
    teacher: Teacher | None = None
    parallel: Parallel = Parallel()
    tokens_per_step: int = 0
    step: int = 0
    metrics_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else must be known after a stop; JSON."""

    def size(self) -> int:
        return self.tensors.size() + sum(map(_bytes, self._teacher_state().values()))

    def write(self, folder: Path) -> None:
        """Write this process's part into a folder; the first process writes what is common."""
        self.tensors.write(folder)
        save_tensors(_random_states(), folder / _random_file(self.parallel.rank))
        if not self.parallel.is_main:
            return
        if taught := self._teacher_state():
            save_tensors(taught, folder / "teacher.safetensors")
        state = State(
            stage=self.stage, step=self.step, tokens=self.step * self.tokens_per_step,
            metrics_bytes=self.metrics_bytes, world=self.parallel.world,
            groups=tuple(_options(group) for group in self.tensors.optimizer.param_groups),
            extra=self.extra,
        )  # fmt: skip
        values = {"schema": SCHEMA, **state.model_dump()}
        with writing(folder / "state.json"):
            (folder / "state.json").write_text(json.dumps(values, indent=1, allow_nan=False))

    def read(self, folder: Path) -> Apply:
        """Read and check all of a checkpoint.

        Returns:
            What puts it in place; it cannot fail for anything that the checkpoint holds.

        Raises:
            Damaged: if something in it cannot be what was written.
            NexusError: if it is of another student, optimiser, teacher or version.
        """
        state = self._read_state(folder / "state.json")
        random = _read_random(folder / _random_file(self.parallel.rank % state.world))
        tensors = self.tensors.read(folder)
        taught = self._read_teacher(folder / "teacher.safetensors")

        def apply() -> None:
            tensors()
            groups = self.tensors.optimizer.param_groups
            for group, saved in zip(groups, state.groups, strict=True):
                group["lr"] = saved["lr"]
            if self.teacher is not None and taught:
                self.teacher.load_state(taught)
            self.step, self.metrics_bytes = state.step, state.metrics_bytes
            self.extra = dict(state.extra)
            torch.set_rng_state(random["cpu"])
            if "cuda" in random and torch.cuda.is_available():
                torch.cuda.set_rng_state(random["cuda"])

        return apply

    def _read_state(self, file: Path) -> State:
        try:
            values = json.loads(file.read_bytes())
            schema = values.pop("schema")
        except _NO_STATE as error:
            raise _unreadable(file, error) from None
        if schema != SCHEMA:
            raise NexusError(
                f"{file.parent} was written in format {schema}, this version reads {SCHEMA}. "
                "Use the version that wrote it, or start over with --fresh"
            )
        try:
            state = State.parse(values)
        except UsageError as error:
            raise _unreadable(file, error) from None
        groups = self.tensors.optimizer.param_groups
        if min(state.step, state.tokens, state.metrics_bytes, state.world - 1) < 0 or not all(
            isinstance(group.get("lr"), float) for group in state.groups
        ):
            raise Damaged(f"{file} holds values that no checkpoint has")
        for what, saved, own in (
            ("stage", state.stage, self.stage),
            ("number of optimiser groups", len(state.groups), len(groups)),
        ):
            if saved != own:
                raise NexusError(
                    f"{file.parent} is of another run: its {what} is {saved!r}, and here it is "
                    f"{own!r}. Start over with --fresh"
                )
        return state

    def _teacher_state(self) -> Mapping[str, Tensor]:
        return self.teacher.state() if self.teacher is not None else {}

    def _read_teacher(self, file: Path) -> dict[str, Tensor]:
        own = self._teacher_state()
        if not own and not file.exists():
            return {}
        saved = load_tensors(file)
        require_fit(saved, own, "teacher")
        return saved


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors.

    Raises:
        DiskFull, DiskFault: if the disk refuses.
    """
    with writing(file, sum(map(_bytes, tensors.values()))):
        save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read tensors from safetensors.

    Raises:
        Damaged: if the file is none, or not there.
    """
    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from None


def require_fit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
    """Make sure that saved tensors have the names, shapes and types of those that are here.

    Raises:
        NexusError: naming the first that does not fit.
    """
    if own.keys() != saved.keys():
        odd = sorted(own.keys() ^ saved.keys())[0]
        raise NexusError(
            f"the checkpoint does not fit the {what}: '{odd}' is in only one of them. "
            "Start over with --fresh"
        )
    for name, value in own.items():
        kept = saved[name]
        if (kept.shape, kept.dtype) != (value.shape, value.dtype):
            raise NexusError(
                f"the checkpoint does not fit the {what}: '{name}' is {_described(kept)} in the "
                f"checkpoint, {_described(value)} in the {what}. Start over with --fresh"
            )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _random_file(rank: int) -> str:
    return f"random-{rank}.safetensors"


def _read_random(file: Path) -> dict[str, Tensor]:
    random = load_tensors(file)
    try:
        torch.Generator().set_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.Generator("cuda").set_state(random["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise _unreadable(file, error) from None
    return random


def _unreadable(file: Path, error: Exception) -> Damaged:
    reason = str(error).strip().partition("\n")[0][:200]
    return Damaged(f"{file} cannot be read ({type(error).__name__}: {reason})")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
