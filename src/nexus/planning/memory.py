"""The most memory that a run will take at once, part by part, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from nexus.kernels.chunked_head import CHUNK_BYTES, EAGER_CHUNK_BYTES, FEWEST_ROWS
from nexus.planning.hollow import Hollow

MOMENTS = 2
"""Numbers that AdamW keeps beside each weight."""

EAGER_TEMPORARIES = 10
"""Blocks of fp32 logits that the element-wise work of the losses holds where it is not fused."""

COMPILER_BYTES = 100 << 20
"""What a compiler of layers and losses keeps for good, measured."""


@dataclass(frozen=True)
class Work:
    """What of a stage decides how much memory it takes."""

    rows: int
    """Of a micro-batch."""
    length: int
    micro_batches: int
    """Of a step, on one process: from two on, gradients lie beside activations."""
    precision: Literal["bf16", "fp32", "pure_bf16"] = "bf16"
    gradient_checkpointing: bool = False
    fused: bool = False
    """Whether layers and losses are compiled."""
    lora_rank: int | None = None
    shares: int = 1
    """Over how many processes the weights are spread."""
    on_host: bool = True
    """Whether files are written from the very memory that models lie in."""

    @property
    def width(self) -> int:
        """Bytes of a weight that is trained."""
        return 2 if self.precision == "pure_bf16" else 4

    @property
    def product_width(self) -> int:
        """Bytes of a number in a product of matrices."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True)
class Forecast:
    """Bytes by part, at the moment that takes the most of them."""

    parts: dict[str, int]
    whole: bool = True
    """Whether activations are among the parts: of some architectures nobody can tell."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fixed(self) -> int:
        """What no smaller micro-batch saves."""
        return sum(value for name, value in self.parts.items() if name in _FIXED)


_FIXED = ("teacher", "student", "gradients", "optimizer", "a second copy of the student")


def forecast(teacher: Hollow, teacher_width: int, student: Hollow, work: Work) -> Forecast:
    """The dearer one of training and evaluation.

    Args:
        teacher: The teacher.
        teacher_width: Bytes of one of its weights.
        student: The student; in bf16 if that is what it is trained in.
        work: How it is trained.
    """
    training = training_forecast(teacher, teacher_width, student, work)
    evaluation = _evaluation(teacher, teacher_width, student, work)
    return max(training, evaluation, key=lambda each: each.total)


def training_forecast(teacher: Hollow, teacher_width: int, student: Hollow, work: Work) -> Forecast:
    """A step, and the files that are written after it."""
    weights = student.parameters
    trained = weights if work.lora_rank is None else work.lora_rank * student.linear_sides
    adapter = 0 if work.lora_rank is None else trained
    gradients = trained * work.width // work.shares
    head = _head_bytes(teacher, teacher_width, student, work)
    activations = student.saved_bytes(
        work.rows,
        work.length,
        autocast=work.precision == "bf16",
        recomputed=work.gradient_checkpointing,
    )
    passing = (activations or 0) + head
    if work.micro_batches == 1:
        # What the forward pass leaves goes as gradients come: at no time are both there in full.
        gradients = max(0, gradients - passing)
    parts = {
        "teacher": teacher.parameters * teacher_width // work.shares,
        "student": (weights + adapter) * work.width // work.shares,
        "gradients": gradients,
        "optimizer": MOMENTS * trained * work.width // work.shares,
        "activations": activations or 0,
        "head": head,
        "files being written": weights * work.width if work.on_host else 0,
    }
    return Forecast(parts, activations is not None)


def _head_bytes(teacher: Hollow, teacher_width: int, student: Hollow, work: Work) -> int:
    """Casts of both heads, a chunk of their logits and what is computed of it, and the gradient."""
    (vocabulary, columns), (_, theirs) = student.head, teacher.head
    casts = vocabulary * columns * 2 if work.precision == "bf16" else 0
    casts += vocabulary * theirs * work.product_width * (teacher_width != work.product_width)
    tokens = work.rows * work.length
    limit = CHUNK_BYTES if work.fused else EAGER_CHUNK_BYTES
    chunk = min(tokens, max(FEWEST_ROWS, limit // (2 * vocabulary * work.product_width)))
    logits = 2 * chunk * vocabulary * work.product_width
    temporaries = 0 if work.fused else EAGER_TEMPORARIES * chunk * vocabulary * 4
    gradient = 0 if work.lora_rank is not None else vocabulary * columns * 4
    states = tokens * (2 * columns * 4 + theirs * teacher_width)
    return casts + logits + temporaries + gradient + states


def _evaluation(teacher: Hollow, teacher_width: int, student: Hollow, work: Work) -> Forecast:
    """The student is loaded again as it lies on disk, and both are compared in fp32."""
    vocabulary, columns = teacher.head
    chunk = max(FEWEST_ROWS, EAGER_CHUNK_BYTES // (2 * vocabulary * 4))
    chunk = min(work.rows * work.length, chunk)
    head = (2 + EAGER_TEMPORARIES) * chunk * vocabulary * 4
    head += vocabulary * columns * 4 * (teacher_width != 4)
    weights = 4 * student.parameters
    parts = {
        "teacher": teacher.parameters * teacher_width,
        "student": weights,
        "a second copy of the student": weights,
        "head": head,
    }
    return Forecast(parts)


def width_of(dtype: torch.dtype) -> int:
    """Bytes of a number."""
    return torch.empty(0, dtype=dtype).element_size()
