"""Memory of this process or of its accelerator: the peak, what is held, what is to be had."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
from pathlib import Path

import torch

GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


def held_bytes(device: torch.device) -> int:
    """What this process holds now: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return round(peak_memory_gib(device) * GIB)
    return int(statistics.read_text().split()[1]) * resource.getpagesize()


def give_back() -> None:
    """Hand memory that was freed to the system, of which glibc keeps blocks below 32 MiB."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes(device: torch.device) -> int:
    """What this process can still get without others being swapped out or ended.

    On CUDA what is free on the device and in PyTorch's own reserve; elsewhere what the system says,
    or what is left of the control group's limit if that is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserve
    free = _counter(Path("/proc/meminfo"), "MemAvailable:") * 1024
    free = free or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [left for group in CONTROL_GROUPS if (left := _left(*group)) is not None]
    return min([free, *limits])


CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Where a container's limit, use and statistics stand: of the second and of the first version."""


def _left(limit: str, used: str, statistics: str) -> int | None:
    """What is left of a control group's limit; cached files in it make way. None without limit."""
    if not (Path(limit).exists() and Path(used).exists()):
        return None
    text = Path(limit).read_text().strip()
    if not text.isdecimal():
        return None  # "max"
    cached = _counter(Path(statistics), "inactive_file")
    return max(0, int(text) - int(Path(used).read_text()) + cached)


def _counter(file: Path, name: str) -> int:
    """The number after a name, in a file of such lines; 0 if there is none."""
    if not file.exists():
        return 0
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(words[1]) for words in lines if words and words[0] == name), 0)
