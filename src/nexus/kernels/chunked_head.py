"""Token losses over the LM head, value and gradients in one pass, without ever holding all logits.

For a chunk of target positions: project student and teacher to logits, turn them into losses and
into the gradient of the weighted sum, and spend that gradient at once on both backward products.
That is four matrix products in all, the fewest possible, and no `[tokens, vocabulary]` tensor.

The element-wise work is derived from the losses themselves by autograd and fused by
`torch.compile`; without it the same lines run eagerly. It is cut where a row's statistics are
complete, so that each of three sweeps is a plain reduction or a plain map that fuses without any
intermediate of the size of the logits:

1. normalisers log Z(T) = logsumexp(z / T) of student and teacher;
2. losses given the normalisers, and their derivative by log Z, which is a sum over the row;
3. the gradient, ∂L/∂z at fixed log Z plus ∂L/∂log Z · softmax(z / T) / T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.batch import Targets
from nexus.kernels.sweeps import Biases, Losses, Sweeps, TokenLoss, Told
from nexus.signals import Dense, Distribution, Head, Headed, Mixture, Scores, Support

CHUNK_BYTES = 256 << 20
"""What the student's and the teacher's logits of one chunk may take together when fused."""

EAGER_CHUNK_BYTES = 32 << 20
"""The same without fusion, where some ten temporaries of twice the size come on top."""

VOCABULARY_BLOCK = 8192
"""How many rows of the head's gradient are computed at a time."""

NARROWED = 1 << 18
"""How many numbers of the head's gradient are rounded at a time."""

FEWEST_ROWS = 64
"""Below this the matrix products starve, whatever the vocabulary."""


@dataclass(frozen=True)
class HeadLosses:
    """`total` is differentiable and summed over tokens; the rest is for logs, per token."""

    total: Float[Tensor, ""]
    per_token: Float[Tensor, "losses n"]
    observed: Float[Tensor, "observed n"]


class Workspace:
    """The logits of one chunk, kept between calls: fresh pages cost as much as the products."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def matrix(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        key = (name, like.dtype, like.device)
        memory = self._memory.get(key)
        if memory is None or memory.numel() < rows * columns:
            memory = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
            self._memory[key] = memory
        return memory[: rows * columns].view(rows, columns)


def chunked_head(
    student: Headed,
    teacher: Distribution | None,
    targets: Targets,
    losses: Losses,
    weights: Float[Tensor, " losses"],
    *,
    fused: bool = False,
    workspace: Workspace | None = None,
) -> HeadLosses:
    """The weighted sum of `losses` over all target positions, ready for `backward`.

    Gradients reach the student's hidden states and the head's weight and bias, each where it asks
    for one. Products run in the autocast dtype if autocast is on, else in that of the hidden
    states; statistics and sums are fp32.

    Args:
        student: final hidden states at the target positions, and the head.
        teacher: the teacher at the same positions, or None if no loss needs it.
        losses: what to compute. Equal sets share one compiled pass.
        weights: of the losses, in order. They may change at every call without recompiling.
        fused: whether to compile the element-wise work. On a CPU this needs a C++ compiler.
        workspace: memory to be reused from call to call.
    """
    head = student.head
    sweeps = Sweeps.of(losses, head, teacher, fused)
    arguments = (head, teacher, targets, weights, sweeps, workspace or Workspace())
    outputs = _ChunkedHead.apply(student.hidden, head.weight, head.bias, *arguments)  # type: ignore[no-untyped-call]
    return HeadLosses(*cast(tuple[Tensor, Tensor, Tensor], outputs))


@torch.no_grad()
def observe(
    student: Headed,
    teacher: Distribution | None,
    targets: Targets,
    observed: Sequence[TokenLoss],
    *,
    workspace: Workspace | None = None,
) -> Float[Tensor, "observed n"]:
    """Values per token without any gradient, chunk by chunk: what an evaluation needs.

    What is observed may also give several rows at once, `[k, n]`, which share their work.
    """
    memory = workspace or Workspace()
    sweeps = Sweeps.of(Losses((), tuple(observed)), student.head, teacher, fused=False)
    project, tell = _Projection(student, "student", memory), _told(teacher, memory)
    chunks = []
    with torch.autocast(student.hidden.device.type, enabled=False):
        for start, stop in _chunks(project, EAGER_CHUNK_BYTES) or [(0, 0)]:
            own = Scores(student.head.finish(project(start, stop), student.head.biases))
            scores = sweeps.teacher(tell(start, stop), _biases(teacher))
            at = Targets(*(column[start:stop] for column in targets))
            values = [loss(own, scores, at) for loss in observed]
            chunks.append(torch.cat([v if v.dim() == 2 else v.unsqueeze(0) for v in values]))
    return torch.cat(chunks, dim=1)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        teacher: Distribution | None,
        targets: Targets,
        weights: Tensor,
        sweeps: Sweeps,
        workspace: Workspace,
    ) -> tuple[Tensor, Tensor, Tensor]:
        project = _Projection(Headed(hidden, head), "student", workspace)
        tell = _told(teacher, workspace)
        gradients = _Gradients(project, hidden, weight, bias, ctx.needs_input_grad[:3])
        values, observed = [weights.new_zeros(sweeps.losses.count, 0)], []
        limit = CHUNK_BYTES if sweeps.fused else EAGER_CHUNK_BYTES
        biases = _biases(teacher)
        with torch.autocast(hidden.device.type, enabled=False):
            for start, stop in _chunks(project, limit):
                products, told = project(start, stop), tell(start, stop)
                at = Targets(*(column[start:stop] for column in targets))
                value, seen = sweeps(products, head.biases, told, biases, at, weights)
                gradients.add(project, products, start, stop)
                values.append(value)
                observed.append(seen)
            value = torch.cat(values, dim=1)
            # Still without autocast: a bf16 sum would make the gradient from above bf16, too.
            total = (weights @ value).sum()
        seen = torch.cat(observed, dim=1) if observed else weights.new_zeros(sweeps.losses.seen, 0)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(value, seen)
        return total, value, seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked head gives its gradients once: call it again instead")
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients.times(upstream), *(None,) * 6)


class _Gradients:
    """Gradients summed over the chunks: those of the head in fp32, whatever its own type."""

    def __init__(
        self,
        project: _Projection,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        wanted: Sequence[bool],
    ) -> None:
        self._dtypes, fp32 = (hidden.dtype, weight.dtype), torch.float32
        self._used = 0
        self.hidden = torch.empty_like(project.hidden) if wanted[0] else None
        self.weight = torch.empty_like(weight, dtype=fp32) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=fp32) if wanted[2] and bias is not None else None

    def add(self, project: _Projection, gradient: Tensor, start: int, stop: int) -> None:
        """`gradient` is by the products of rows `start` to `stop`."""
        hidden, vocabulary = project.hidden[start:stop], project.vocabulary
        if self.hidden is not None:
            torch.mm(gradient, project.rows, out=self.hidden[start:stop])
        if self.weight is not None:
            # By blocks of the vocabulary, so that the product is added while it is in the cache.
            for first in range(0, vocabulary, VOCABULARY_BLOCK):
                block = slice(first, min(first + VOCABULARY_BLOCK, vocabulary))
                product = gradient[:, block].t() @ hidden
                rows = self.weight[block]
                rows.add_(product) if self._used else rows.copy_(product)
        if self.bias is not None:
            self.bias[:vocabulary].add_(gradient.sum(0, dtype=torch.float32))
        self._used = vocabulary

    def times(self, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden_dtype, head_dtype = self._dtypes
        hidden = None if self.hidden is None else (self.hidden * upstream).to(hidden_dtype)
        bias = None if self.bias is None else (self.bias * upstream).to(head_dtype)
        if self.weight is None:
            return hidden, None, bias
        self.weight[self._used :].zero_()
        return hidden, _scaled(self.weight, upstream, head_dtype), bias


def _scaled(matrix: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`matrix` times `factor`, in `dtype`, over its own memory: no second copy is ever held."""
    if dtype == matrix.dtype:
        return matrix.mul_(factor)
    flat = matrix.view(-1)
    narrow = flat.view(dtype)[: flat.numel()]
    for start in range(0, flat.numel(), NARROWED):
        # What is written lies before what is still to be read, except in the first block.
        block = slice(start, start + NARROWED)
        narrow[block] = (flat[block] * factor).to(dtype)
    return narrow.view(matrix.shape)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _Projection:
    """The products of some rows of hidden states with a head, in the workspace."""

    def __init__(self, of: Headed, name: str, memory: Workspace) -> None:
        dtype = _product_dtype(of.hidden)
        self.hidden, self.rows = of.hidden.to(dtype), of.head.rows.to(dtype)
        self.vocabulary = of.head.vocabulary
        self._name, self._memory = name, memory

    def __call__(self, start: int, stop: int) -> Tensor:
        hidden = self.hidden[start:stop]
        out = self._memory.matrix(self._name, stop - start, self.vocabulary, hidden)
        return torch.mm(hidden, self.rows.t(), out=out)


def _chunks(project: _Projection, byte_limit: int) -> list[tuple[int, int]]:
    """As many rows at once as two blocks of logits may take, spread evenly over the chunks."""
    n, bytes_a_row = len(project.hidden), 2 * project.vocabulary * project.hidden.element_size()
    most = max(FEWEST_ROWS, byte_limit // bytes_a_row)
    count = -(-n // most)
    edges = [n * i // count for i in range(count + 1)] if count else []
    return list(zip(edges[:-1], edges[1:], strict=True))


def _told(teacher: Distribution | None, memory: Workspace) -> Callable[[int, int], Told]:
    """What the teacher says of some rows: products still to be finished, logits, or a support."""
    match teacher:
        case None:
            return lambda start, stop: None
        case Headed() | Mixture():
            members = teacher.members if isinstance(teacher, Mixture) else (teacher,)
            each = [_Projection(of, f"teacher {i}", memory) for i, of in enumerate(members)]
            return lambda start, stop: tuple(project(start, stop) for project in each)
        case Dense():
            return lambda start, stop: (teacher.logits[start:stop],)
        case Support():
            return teacher.part
        case _:
            raise TypeError(f"unknown distribution {type(teacher).__name__}")


def _biases(teacher: Distribution | None) -> Biases:
    match teacher:
        case Headed():
            return (teacher.head.biases,)
        case Mixture():
            return tuple(member.head.biases for member in teacher.members)
        case _:
            return (None,)
