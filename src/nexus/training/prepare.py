"""A student made ready for training: adapter, precision, checkpointing, compiled layers."""

from __future__ import annotations

import os
import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from nexus.adapters import merged
from nexus.errors import UsageError
from nexus.kernels.decoder import compile_layers
from nexus.quantization.quantize import in_type
from nexus.training.optimizer import refuse_lost_updates
from nexus.training.settings import LoraSpec, TrainSpec

COMPILE_FROM = 10_000_000
"""Parameters from which compiling pays for itself within minutes."""


def prepare(student: PreTrainedModel, settings: TrainSpec) -> nn.Module:
    """The module to train; `student` itself, or wrapped with an adapter.

    Raises:
        UsageError: for bf16 weights at a rate that cannot move them, or LoRA without PEFT.
    """
    student.config.use_cache = False
    in_type(student, settings.weights)
    _checkpoint_activations(student, settings.gradient_checkpointing)
    model: nn.Module = student
    if settings.lora is not None:
        model = _with_adapter(student, settings.lora)
    refuse_lost_updates(model, settings.learning_rate)
    if compiles(settings, student):
        compile_layers(model)
    return model


def compiles(settings: TrainSpec, student: nn.Module) -> bool:
    """Whether layers and losses are compiled: as told, or if that pays and can be done here.

    Raises:
        UsageError: if it is told to, and cannot be done here.
    """
    possible = can_compile(next(student.parameters()).device)
    if settings.compile == "auto":
        large = sum(parameter.numel() for parameter in student.parameters()) >= COMPILE_FROM
        return large and possible
    if settings.compile and not possible:
        raise UsageError(
            "train.compile is true, for which this machine lacks a C++ compiler or Python's "
            "headers. Install them (on Debian: g++ and python3-dev), or set train.compile: false, "
            "which a run that began with it goes on with by --allow-changed recipe"
        )
    return settings.compile


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on a CPU a C++ compiler and Python's headers."""
    if device.type != "cpu":
        return True
    compilers = [os.environ.get("CXX", ""), "g++", "clang++"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(name and shutil.which(name) for name in compilers)


def finish(model: nn.Module) -> PreTrainedModel:
    """The plain transformers model with all its weights trainable, an adapter merged into them."""
    if isinstance(model, PreTrainedModel):
        return model
    plain: PreTrainedModel = merged(model)
    plain.requires_grad_(True)
    return plain


def _checkpoint_activations(student: PreTrainedModel, wanted: bool) -> None:
    if not wanted:
        if student.is_activation_checkpointing:
            cast(Any, student).activation_checkpointing_disable()
        return
    if not student.supports_gradient_checkpointing:
        raise UsageError(
            f"train.gradient_checkpointing is true, but {type(student).__name__} cannot recompute "
            "its activations. Set it to false, or lower train.micro_batch_rows"
        )
    student.activation_checkpointing_enable({"use_reentrant": False})


def _with_adapter(student: PreTrainedModel, lora: LoraSpec) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UsageError(
            "train.lora needs PEFT, which is not installed. Install nexus-distillation[lora]"
        ) from None
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks for it by the name that transformers is about to give up.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return cast(nn.Module, get_peft_model(student, config))
    except ValueError as error:
        raise UsageError(f"train.lora.targets is {lora.targets!r}: {error}") from None
