"""Small problems for the chunked head, and their exact solution: all logits at once, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nexus.batch import Targets
from nexus.kernels.chunked_head import HeadLosses, chunked_head
from nexus.kernels.sweeps import Losses
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import (
    Dense,
    Distribution,
    Finish,
    Head,
    Headed,
    MixedScores,
    Mixture,
    Scores,
    Signal,
    Support,
)

N, V, H = 13, 37, 8

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"finish": Finish(scale=0.25)},
    "softcap": {"finish": Finish(softcap=2.0)},
    "padded": {"padding": 5},
    "all": {"bias": True, "padding": 3, "finish": Finish(scale=1.5, softcap=3.0)},
}
TEACHERS = ["headed", "dense", "support", "sampled", "mixed", "mixed_logits", "none"]
WHOLE = {"headed", "dense", "mixed", "mixed_logits"}
TERMS = {
    "task": Task(),
    **{name: Output(divergence=name, temperature=2.0) for name in DIVERGENCES},
    **{f"{name} at 1": Output(divergence=name) for name in DIVERGENCES},
}


def takes(teacher: str, term: str) -> bool:
    """Whether a term can be computed from what that kind of teacher says."""
    objective = TERMS[term]
    if isinstance(objective, Task):
        return True
    if teacher in WHOLE:
        return True
    if objective.temperature != 1 or Signal.FULL_VOCABULARY in objective.needs:
        return False
    return teacher == "support" or (teacher == "sampled" and objective.divergence == "forward_kl")


def targets(n: int = N, v: int = V) -> Targets:
    return Targets(torch.randint(v, (n,)), torch.zeros(n).long(), torch.zeros(n).long())


def a_head(
    v: int = V,
    h: int = H,
    *,
    bias: bool = False,
    padding: int = 0,
    finish: Finish | None = None,
    dtype: torch.dtype = torch.float32,
) -> Head:
    weight = (torch.randn(v + padding, h) / h**0.5 * 2).to(dtype)
    biases = torch.randn(v + padding).to(dtype) if bias else None
    return Head(weight, biases, finish or Finish(), v)


def a_student(head: Head, n: int = N, dtype: torch.dtype = torch.float32) -> Headed:
    hidden = torch.randn(n, head.weight.shape[1]).to(dtype).requires_grad_()
    head.weight.requires_grad_()
    if head.bias is not None:
        head.bias.requires_grad_()
    return Headed(hidden, head)


def a_teacher(kind: str, n: int = N, v: int = V) -> Distribution | None:
    """Of another width than the student, with other rows of padding."""

    def headed() -> Headed:
        head = a_head(v, 6, bias=True, padding=2, finish=Finish(scale=0.7))
        return Headed(torch.randn(n, 6), head)

    log_p = (2 * torch.randn(n, v)).log_softmax(-1)
    kept, ids = log_p.topk(5, dim=-1)
    match kind:
        case "headed":
            return headed()
        case "dense":
            return Dense(2 * torch.randn(n, v))
        case "support":
            return Support(kept, ids, log_p.scatter(-1, ids, -torch.inf).logsumexp(-1))
        case "sampled":
            return Support(kept.log_softmax(-1), ids)
        case "mixed" | "mixed_logits":
            mean = "logit" if kind == "mixed_logits" else "probability"
            return Mixture((headed(), headed()), (0.3, 0.7), mean)
        case _:
            return None


def told(teacher: Distribution | None) -> Scores | Support | None:
    """What the teacher says, written out in float64."""
    match teacher:
        case Headed():
            return Scores(logits_of(teacher.hidden, teacher.head))
        case Dense():
            return Scores(teacher.logits.double())
        case Mixture():
            members = [Scores(logits_of(one.hidden, one.head)) for one in teacher.members]
            return MixedScores(members, teacher.shares, teacher.mean)
        case Support() | None:
            return teacher
    raise AssertionError


def logits_of(
    hidden: Tensor, head: Head, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """All logits at once, in float64, from the definition."""
    weight = head.weight.double() if weight is None else weight
    bias = bias if bias is not None else None if head.bias is None else head.bias.double()
    logits = hidden.double() @ weight[: head.vocabulary].t()
    if bias is not None:
        logits = logits + bias[: head.vocabulary]
    logits = logits * head.finish.scale
    cap = head.finish.softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


class Exact(NamedTuple):
    values: Tensor
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def plain_autograd(
    student: Headed,
    teacher: Distribution | None,
    at: Targets,
    losses: Losses,
    weights: Tensor,
) -> Exact:
    """Values and gradients from all logits at once, in float64."""
    head = student.head
    leaves = [
        None if leaf is None else leaf.detach().double().requires_grad_()
        for leaf in (student.hidden, head.weight, head.bias)
    ]
    hidden, weight, bias = leaves
    assert hidden is not None
    scores, said = Scores(logits_of(hidden, head, weight, bias)), told(teacher)
    values = torch.stack([loss(scores, said, at) for loss in losses.losses]).double()
    (weights.double() @ values).sum().backward()
    grads = [None if leaf is None else leaf.grad for leaf in leaves]
    assert grads[0] is not None
    assert grads[1] is not None
    return Exact(values.detach(), grads[0], grads[1], grads[2])


def losses_of(*terms: str) -> Losses:
    objectives = [TERMS[term] for term in terms]
    temperatures = {t for objective in objectives for t in objective.temperatures}
    of_teacher = {t for o in objectives if o.needs != Signal.NONE for t in o.temperatures}
    return Losses(
        tuple(objective.per_token for objective in objectives),
        (),
        tuple(sorted(temperatures)),
        tuple(sorted(of_teacher)),
    )


def check(
    student: Headed,
    teacher: Distribution | None,
    at: Targets,
    losses: Losses,
    weights: Tensor,
    *,
    error: float = 1e-5,
    fused: bool = False,
) -> HeadLosses:
    """The chunked head against plain autograd, value and every gradient."""
    for leaf in (student.hidden, student.head.weight, student.head.bias):
        if leaf is not None:
            leaf.grad = None
    result = chunked_head(student, teacher, at, losses, weights, fused=fused)
    result.total.backward()
    exact = plain_autograd(student, teacher, at, losses, weights)
    assert distance(result.per_token, exact.values) < error
    total = (weights.double() @ exact.values).sum()
    torch.testing.assert_close(result.total.double(), total, rtol=error, atol=error)
    assert distance(student.hidden.grad, exact.hidden) < error
    assert distance(student.head.weight.grad, exact.weight) < error
    if exact.bias is not None and student.head.bias is not None:
        assert distance(student.head.bias.grad, exact.bias) < error
    return result


def distance(found: Tensor | None, exact: Tensor) -> float:
    assert found is not None
    assert found.isfinite().all()
    return ((found.double() - exact).norm() / exact.norm().clamp_min(1e-12)).item()
