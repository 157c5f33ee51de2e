"""TrainSpec: how a stage trains."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from nexus.spec import Spec
from nexus.training.metrics import Dashboard

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class LoraSpec(Spec):
    """Train a low-rank adapter instead of all weights (arXiv:2106.09685); merged at the end."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter."""


class TrainSpec(Spec):
    """Length, batch, optimiser and precision of one stage."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    tokens_per_step: int = Field(default=2048, ge=2)
    """Tokens of one optimiser step over all processes: a multiple of data.sequence_length."""
    micro_batch_rows: int = Field(default=4, ge=1)
    """Rows that go through the models at once. Changes memory and speed, not the gradient."""
    learning_rate: float = Field(default=5.0e-4, gt=0)
    """The peak."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    decay_share: Share = 0.2
    """wsd: the last share of the run, in which the rate falls."""
    final_share: Share = 0.0
    """The share of the peak rate that is left at the end."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_gradient: float = Field(default=1.0, gt=0)
    """The gradient's largest norm."""
    precision: Literal["bf16", "fp32", "pure_bf16"] = "bf16"
    """bf16: fp32 weights under bf16 autocast. pure_bf16: half the memory, for high rates only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool | Literal["auto"] = "auto"
    """Compile layers and losses: worth it above some ten million parameters, which is `auto`."""
    lora: LoraSpec | None = None
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    heldout_every: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Steps between looks at a few held-out rows, noted in metrics.jsonl; 0 for none. auto: eight
    looks that take about 5 % of the stage, none in a short one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    max_bad_steps: int = Field(default=3, ge=1)
    """Steps in a row with NaN or infinity, which are skipped, until training goes back."""
    dashboard: Dashboard = "trackio"
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work. ddp: each holds all weights. fsdp2: each holds its part
    of student, optimiser and teacher. auto: ddp, unless that would not fit the GPU."""

    @property
    def weights(self) -> torch.dtype:
        """What weights are trained and saved in."""
        return torch.bfloat16 if self.precision == "pure_bf16" else torch.float32

    def autocast(self, device: torch.device) -> torch.autocast:
        # Kept casts would hold in full, until the forward pass is over, what fsdp2 spreads.
        return torch.autocast(
            device.type,
            torch.bfloat16,
            enabled=self.precision == "bf16",
            cache_enabled=self.parallel != "fsdp2",
        )
