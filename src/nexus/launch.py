"""How a process begins: with memory settings that must be there before Python, and not orphaned.

On a CPU, training is bound by first touches of memory: large blocks that are returned to the system
and asked for again at every layer. Huge pages and an allocator that keeps its blocks make a step
1.1 to 1.3 times faster (benchmarks/step.py). In bf16 PyTorch keeps a compiled kernel, with its
working memory, for each shape it has met, a thousand by default: since the number of targets is
another in each batch, memory would grow for hundreds of steps. None of this changes a result.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import signal
import sys
from collections.abc import Mapping
from types import MappingProxyType

KERNELS_KEPT = "128"
"""Several times the shapes of a model's layers, which come back before they are forgotten."""

MARK = "NEXUS_MEMORY"
"""Set in the restarted process; says which settings it runs with."""


def relaunch(descriptors: Mapping[str, int] = MappingProxyType({})) -> None:
    """Replace this process by itself with better memory settings, once, where there are any.

    Args:
        descriptors: open files that stay open, each with the environment variable that tells of it.
    """
    settings = memory_settings()
    if MARK in os.environ or not settings:
        return
    for number in descriptors.values():
        os.set_inheritable(number, True)
    open_files = {name: str(number) for name, number in descriptors.items()}
    environment = {**os.environ, **settings, **open_files, MARK: describe(settings)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def memory_settings() -> dict[str, str]:
    """Environment variables to add; none on another system than Linux or beside a user's own."""
    if platform.system() != "Linux" or "LD_PRELOAD" in os.environ:
        return {}
    settings = {"THP_MEM_ALLOC_ENABLE": "1"}  # PyTorch's own switch for huge pages
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        settings[cache] = KERNELS_KEPT
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if tcmalloc:
        settings["LD_PRELOAD"] = tcmalloc
    elif platform.libc_ver()[0] == "glibc":
        # Keep freed blocks instead of giving them back; all from the one heap that grows.
        settings |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    return {name: value for name, value in settings.items() if name not in os.environ}


def end_with_launcher() -> None:
    """Let no process that torchrun started go on alone if torchrun itself is killed."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGKILL)


def end_with_parent(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent dies, where it can (Linux)."""
    if platform.system() == "Linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, int(number), 0, 0, 0)


def describe(settings: dict[str, str]) -> str:
    words = []
    if "THP_MEM_ALLOC_ENABLE" in settings:
        words.append("huge pages")
    if "LD_PRELOAD" in settings:
        words.append("tcmalloc")
    if "MALLOC_MMAP_MAX_" in settings:
        words.append("freed memory kept")
    if "LRU_CACHE_CAPACITY" in settings:
        words.append("fewer kernels kept")
    return ", ".join(words)
