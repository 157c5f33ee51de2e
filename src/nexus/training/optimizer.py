"""The optimiser, and the weights it can move at all."""

from __future__ import annotations

import torch
from torch import nn

from nexus.errors import UsageError

BF16_HALF_STEP = 2.0**-9
"""Half the gap between neighbouring bf16 numbers, relative to them: smaller updates vanish."""


def adamw(
    model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one fused pass; norms, biases and other vectors are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UsageError("the student has no weight that is trained: unfreeze some of it")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


@torch.no_grad()
def refuse_lost_updates(model: nn.Module, learning_rate: float) -> None:
    """Refuse bf16 weights with a learning rate too small to move most of them.

    Adam's updates are about as large as the learning rate. In bf16 an update below half the gap to
    the neighbouring number is rounded away, without a word, and training stands still.

    Raises:
        UsageError: names the learning rate that would move half of the weights.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dtype is torch.bfloat16]
    if not weights:
        return
    sizes = torch.cat([_sample(weight).abs().float() for weight in weights])
    needed = float(sizes.median()) * BF16_HALF_STEP
    if learning_rate < needed:
        raise UsageError(
            f"train.learning_rate is {learning_rate:g}, but bf16 weights need {needed:.1e} for "
            "half of them to move at all. Set train.precision: bf16 (fp32 weights under bf16 "
            "autocast), or raise the learning rate"
        )


def _sample(weight: torch.Tensor, most: int = 100_000) -> torch.Tensor:
    flat = weight.flatten()
    return flat[:: max(1, len(flat) // most)]
