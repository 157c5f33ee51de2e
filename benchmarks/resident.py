"""How much memory this process holds, as Linux counts it: pages that are resident."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from pathlib import Path

MIB = 2**20


def resident_mib() -> float:
    """What is held now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def peak_mib() -> float:
    """The most that was held since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel does not say what the process held at most (VmHWM)")


def forget_peak() -> None:
    """Begin a new peak at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def settle() -> float:
    """Give back what nobody uses, so that only what is in use is counted; what is held then."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_mib()
