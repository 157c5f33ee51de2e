"""Peak memory of this process or of its accelerator."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB
