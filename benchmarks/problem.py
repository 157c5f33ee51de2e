"""The kernel benchmark's problem: hidden states, heads and targets, and its gradients in fp32.

Inputs lie in shared memory: every variant works on the same ones, and they are held once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nexus.batch import IGNORED

SEED = 0
IGNORED_SHARE = 0.3
REFERENCE_ROWS = 128

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student logits, teacher logits, targets) to the mean over the targets."""


@dataclass(frozen=True)
class Shape:
    """Tokens, widths of student and teacher, vocabulary."""

    tokens: int
    student: int
    teacher: int
    vocabulary: int

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens, hidden {self.student:,}/{self.teacher:,}, "
            f"vocabulary {self.vocabulary:,}"
        )


@dataclass(frozen=True)
class Problem:
    """What a loss is given. `hidden` and `weight` are the student's and want gradients."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    targets: Tensor

    @classmethod
    def attach(cls, folder: Path, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> Problem:
        """The problem in `folder`. In another type than bf16 it is a copy of the same numbers."""
        n, width, teacher_width, vocabulary = (
            shape.tokens, shape.student, shape.teacher, shape.vocabulary
        )  # fmt: skip
        parts = {
            "hidden": (n, width),
            "weight": (vocabulary, width),
            "teacher_hidden": (n, teacher_width),
            "teacher_weight": (vocabulary, teacher_width),
        }
        tensors = {
            name: shared(folder / name, torch.bfloat16, *size).to(dtype)
            for name, size in parts.items()
        }
        for name in ("hidden", "weight"):
            tensors[name].requires_grad_()
        return cls(**tensors, targets=shared(folder / "targets", torch.int64, n))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In the order in which most losses take them."""
        own, theirs = (self.hidden, self.weight), (self.teacher_hidden, self.teacher_weight)
        return (*own, *theirs, self.targets)

    @property
    def is_target(self) -> Tensor:
        return self.targets != IGNORED

    @property
    def target_count(self) -> int:
        return int(self.is_target.sum())

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None


def shared(path: Path, dtype: torch.dtype, *size: int) -> Tensor:
    """A tensor whose memory is a file, made if it is not there."""
    count = torch.Size(size).numel()
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(size)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A temporary folder; in memory where the system has one."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as folder:
        yield Path(folder)


def pose(folder: Path, shape: Shape) -> None:
    """Draw the problem: logits of standard deviation 2.5, as language models have them.

    With equal widths the student is near its teacher; otherwise they have nothing in common.
    """
    problem = Problem.attach(folder, shape)
    generator = torch.Generator().manual_seed(SEED)
    scale = 2.5 / shape.student**0.5
    alike = shape.student == shape.teacher
    with torch.no_grad():
        problem.hidden.normal_(generator=generator)
        problem.weight.normal_(0, scale, generator=generator)
        for theirs, own, size in (
            (problem.teacher_hidden, problem.hidden, 1.0),
            (problem.teacher_weight, problem.weight, 2.5 / shape.teacher**0.5),
        ):
            theirs.normal_(0, 0.5 * size if alike else size, generator=generator)
            if alike:
                theirs.add_(own)
    problem.targets.random_(shape.vocabulary, generator=generator)
    ignored = torch.rand(shape.tokens, generator=generator) < IGNORED_SHARE
    problem.targets[ignored] = IGNORED


def solve(folder: Path, shape: Shape, loss: Loss) -> float:
    """Loss and gradients by autograd in fp32, some rows at a time; gradients stay in `folder`."""
    problem = Problem.attach(folder, shape, torch.float32)
    rows = problem.is_target.nonzero().squeeze(1)
    total = 0.0
    for some in rows.split(REFERENCE_ROWS):
        logits = problem.hidden[some] @ problem.weight.t()
        with torch.no_grad():
            theirs = problem.teacher_hidden[some] @ problem.teacher_weight.t()
        part = loss(logits, theirs, problem.targets[some]) * (len(some) / len(rows))
        part.backward()
        total += part.item()
    for name in ("hidden", "weight"):
        gradient = getattr(problem, name).grad
        shared(folder / f"{name}_gradient", torch.float32, *gradient.shape).copy_(gradient)
    return total


def compare(problem: Problem, folder: Path) -> dict[str, float]:
    """Relative error and length of both gradients against those in fp32."""
    facts = {}
    for name in ("hidden", "weight"):
        gradient = getattr(problem, name).grad
        right = shared(folder / f"{name}_gradient", torch.float32, *gradient.shape)
        sums = torch.zeros(3, dtype=torch.float64)
        for some, truth in zip(gradient.split(4096), right.split(4096), strict=True):
            each = (some.float() - truth, some.float(), truth)
            sums += torch.stack([part.square().sum(dtype=torch.float64) for part in each])
        error, length, right_length = sums.sqrt().tolist()
        facts[f"{name}_error"] = error / right_length
        facts[f"{name}_length"] = length / right_length
    return facts
