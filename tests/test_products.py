"""Products of matrices are timed in both precisions."""

from __future__ import annotations

import math

import torch

from nexus.products import bf16_over_fp32


def test_the_ratio_is_a_positive_number() -> None:
    """Which one, depends on the processor."""
    ratio = bf16_over_fp32(torch.device("cpu"))
    assert math.isfinite(ratio) and ratio > 0
