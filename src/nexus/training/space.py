"""Whether the disk has room for what a run will write: asked before the first step, not after."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nexus import durable
from nexus.disk import existing
from nexus.errors import UsageError
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec

MOMENTS = 2
"""Numbers that AdamW keeps beside each weight."""


def require_space(
    run: Path,
    students: Sequence[nn.Module],
    stages: Sequence[TrainSpec],
    parallel: Parallel,
    kept: int = 0,
) -> None:
    """Make sure that checkpoints and student will fit, on all processes alike.

    Args:
        run: The run directory.
        students: That of each stage.
        stages: How each trains.
        parallel: This process among the others.
        kept: What else is written and kept.

    Raises:
        UsageError: if they will not; names what is needed, what is free, and what to change.
    """
    needed = max(0, most_bytes(students, stages, kept) - written_bytes(run))
    free = shutil.disk_usage(existing(run / "checkpoints")).free
    if parallel.any(parallel.is_main and needed > free):
        pairs = zip(students, stages, strict=True)
        each = max(checkpoint_bytes(student, settings) for student, settings in pairs)
        raise UsageError(
            f"{run} needs {needed:,} bytes more for its checkpoints ({each:,} bytes each) and its "
            f"student, and {free:,} bytes are free there. Make room, name an `output` on another "
            "disk, or lower train.keep_checkpoints"
        )


def most_bytes(students: Sequence[nn.Module], stages: Sequence[TrainSpec], kept: int = 0) -> int:
    """The most that checkpoints and student ever take: a new one is there before an old one goes.

    An adapter's own weights are left out, and so is everything small.

    Args:
        students: That of each stage.
        stages: How each trains.
        kept: What else is written and kept.
    """
    before = most = kept
    for student, settings in zip(students, stages, strict=True):
        each = checkpoint_bytes(student, settings)
        written = 1 + -(-settings.steps // settings.save_every)  # one before the first step
        most = max(most, before + min(settings.keep_checkpoints + 1, written) * each)
        before += min(settings.keep_checkpoints, written) * each
    return max(most, before + weight_bytes(students[-1], stages[-1]))


def checkpoint_bytes(student: nn.Module, settings: TrainSpec) -> int:
    """Weights, and moments of those that are trained."""
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    moments = 0 if settings.lora else MOMENTS * trained * _width(settings)
    return weight_bytes(student, settings) + moments


def weight_bytes(student: nn.Module, settings: TrainSpec) -> int:
    """Tied weights count once."""
    return sum(p.numel() for p in student.parameters()) * _width(settings)


def written_bytes(run: Path) -> int:
    """What is there already of that."""
    students = [*(run / "stages").glob("*/*"), *run.glob("student-*")]
    folders = [run / "student", *students, *(run / "checkpoints").glob("*/step-*")]
    files = (file for folder in folders for file in folder.glob("*") if file.is_file())
    return sum(file.stat().st_size for file in files if file.name != durable.MANIFEST)


def _width(settings: TrainSpec) -> int:
    return settings.weights.itemsize
