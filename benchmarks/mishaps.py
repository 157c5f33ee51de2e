"""What befalls a run or what it has written, without a line of any tool being changed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import LlamaModel

FEWEST_POSITIONS = 200
"""Of a training pass here, which has 256. What a tool tries out beforehand has fewer, or counts
memory with tensors that hold nothing."""


@dataclass(frozen=True)
class Mishap:
    """Something that happens once, in a process's `at`-th training pass of the student, from 1."""

    kind: Literal["kill", "nan"]
    at: int

    def arm(self) -> None:
        """From now on, in this process. Hooks on all modules are PyTorch's own, public way."""
        passes = 0

        def befall(module: nn.Module, _: Any, output: Any) -> None:
            nonlocal passes
            if not (isinstance(module, LlamaModel) and module.training):
                return
            states = output.last_hidden_state
            if type(states) is not torch.Tensor or states[..., 0].numel() < FEWEST_POSITIONS:
                return
            passes += 1
            if passes == self.at:
                if self.kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                output.last_hidden_state = output.last_hidden_state * torch.nan

        register_module_forward_hook(befall)


def flip_a_weight_bit(file: Path, seed: int) -> str:
    """Flip one random bit of a safetensors file, behind its header. Says which."""
    content = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    chosen = random.Random(seed)
    at, bit = chosen.randrange(begin, len(content)), chosen.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"byte {at}, bit {bit}"


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def set_clock_back(folders: list[Path], hours: float) -> None:
    """What a clock that was set back leaves: folders that seem to come from the future."""
    for folder in folders:
        then = folder.stat().st_mtime + hours * 3600
        os.utime(folder, (then, then))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`.

    Raises:
        PermissionError: if this process may not mount one.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise PermissionError("no file system can be mounted here") from None
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@contextmanager
def filled(folder: Path, left: int) -> Iterator[None]:
    """Inside, the file system has only `left` bytes free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(16 * 2**10))
    os.truncate(filler, max(0, filler.stat().st_size - left))
    try:
        yield
    finally:
        filler.unlink()
