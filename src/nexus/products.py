"""How fast products of matrices are here: processors without bf16 of their own are slow at it."""

from __future__ import annotations

import time

import torch

TOKENS, WIDTH = 512, 768
"""Of the layer that is tried: smaller ones tell more of how threads meet than of products."""

WORTH_SAYING = 1.5
"""From how many times as long in bf16 as in fp32 a user is told."""


@torch.no_grad()
def bf16_over_fp32(device: torch.device) -> float:
    """How many times as long the three products of a linear layer take in bf16 as in fp32.

    Its output, and the gradients of its input and of its weights, measured in some
    hundredths of a second, or in one or two seconds where bf16 is as slow as it can be.
    """
    wide, half = (_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    return half / wide


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    x = torch.ones(TOKENS, WIDTH, device=device, dtype=dtype)
    weight = torch.ones(WIDTH, WIDTH, device=device, dtype=dtype)
    times = []
    for _ in range(3):  # of which the first warms up
        begin = time.perf_counter()
        said = x @ weight.T
        said @ weight
        said.T @ x
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])
