"""α · CE + (1 - α) · T² · KL and both gradients, as each implementation computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from problem import Problem
from torch import Tensor
from torch.nn import functional

from nexus.batch import IGNORED, Targets
from nexus.kernels.chunked_head import Workspace, chunked_head
from nexus.kernels.sweeps import Losses
from nexus.objectives.observers import agreement_or_tie, forward_kl
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Head, Headed

ALPHA, TEMPERATURE = 0.5, 2.0

Step = Callable[[], Tensor]
"""One call: leaves both gradients in the problem and returns the loss."""


@dataclass(frozen=True)
class Variant:
    """An implementation of the loss."""

    title: str
    build: Callable[[Problem], Step]
    package: str = ""
    """The package it comes from, if it is not ours or PyTorch's."""


def plain_loss(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """What a hand-written loop does, and what all others are checked against in fp32."""
    task = functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
    divergence = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=-1),
        functional.log_softmax(teacher_logits.float() / TEMPERATURE, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    counted = targets != IGNORED
    distillation = (divergence * counted).sum() / counted.sum()
    return ALPHA * task + (1 - ALPHA) * TEMPERATURE**2 * distillation


def _trl_loss(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """TRL's own divergence, which is its GKD trainer's whole loss, and the task loss beside it."""
    from trl.experimental.gkd import GKDTrainer

    task = functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
    distillation = GKDTrainer.generalized_jsd_loss(
        logits[None], teacher_logits[None], targets[None], beta=0.0, temperature=TEMPERATURE
    )
    return ALPHA * task + (1 - ALPHA) * TEMPERATURE**2 * distillation


def _over_logits(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], compiled: bool = False
) -> Callable[[Problem], Step]:
    """A loss that is given all logits of student and teacher."""

    def from_hidden(
        hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, at: Tensor
    ) -> Tensor:
        logits = hidden @ weight.t()
        with torch.no_grad():
            teacher_logits = teacher_hidden @ teacher_weight.t()
        return loss(logits, teacher_logits, at)

    def build(problem: Problem) -> Step:
        function = torch.compile(from_hidden) if compiled else from_hidden
        return lambda: _differentiated(function(*problem.tensors))

    return build


def _liger(compiled: bool) -> Callable[[Problem], Step]:
    def build(problem: Problem) -> Step:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        function = LigerFusedLinearJSDLoss(
            weight_hard_loss=ALPHA,
            weight_soft_loss=(1 - ALPHA) * TEMPERATURE**2,
            beta=0.0,
            temperature=TEMPERATURE,
            ignore_index=IGNORED,
            compiled=compiled,
        )
        return lambda: _differentiated(function(*problem.tensors))

    return build


def _nexus(fused: bool, observed: bool = False) -> Callable[[Problem], Step]:
    """As `DistillationModule` calls it; `observed` is what the training loop watches beside it."""
    objectives = (Task(), Output(divergence="forward_kl", temperature=TEMPERATURE))
    weights = torch.tensor([ALPHA, 1 - ALPHA])
    watched = (forward_kl, agreement_or_tie) if observed else ()
    losses = Losses(
        tuple(objective.per_token for objective in objectives),
        watched,
        temperatures=(1.0, TEMPERATURE),
        teacher_temperatures=(1.0, TEMPERATURE) if observed else (TEMPERATURE,),
    )

    def build(problem: Problem) -> Step:
        workspace = Workspace()

        def step() -> Tensor:
            at = problem.is_target
            tokens = problem.targets[at]
            nothing = torch.zeros_like(tokens)
            result = chunked_head(
                Headed(problem.hidden[at], Head(problem.weight)),
                Headed(problem.teacher_hidden[at], Head(problem.teacher_weight)),
                Targets(tokens, parts=nothing, tasks=nothing),
                losses,
                weights,
                fused=fused,
                workspace=workspace,
            )
            return _differentiated(result.total / len(tokens))

        return step

    return build


def _differentiated(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def products(problem: Problem) -> dict[str, Callable[[], Tensor]]:
    """The products nobody can avoid, over the rows that count, into memory that is there already.

    The head's gradient can be laid out in two ways, of which one is needed.
    """
    at = problem.is_target
    hidden, teacher_hidden = problem.hidden.detach()[at], problem.teacher_hidden[at]
    weight, teacher_weight = problem.weight.detach(), problem.teacher_weight
    logits = hidden.new_empty(len(hidden), len(weight))
    logits.normal_(0, 1e-3)
    by_hidden, by_weight = torch.empty_like(hidden), torch.empty_like(weight)
    transposed = by_weight.view(weight.shape[1], weight.shape[0])
    return {
        "student logits": lambda: torch.mm(hidden, weight.t(), out=logits),
        "teacher logits": lambda: torch.mm(teacher_hidden, teacher_weight.t(), out=logits),
        "hidden gradient": lambda: torch.mm(logits, weight, out=by_hidden),
        "head gradient": lambda: torch.mm(logits.t(), hidden, out=by_weight),
        "head gradient, transposed": lambda: torch.mm(
            hidden.t().contiguous(), logits, out=transposed
        ),
    }


VARIANTS = {
    "nexus": Variant("**Nexus**", _nexus(fused=True)),
    "nexus_observed": Variant(
        "Nexus, watching KL at T = 1 and agreement", _nexus(fused=True, observed=True)
    ),
    "nexus_eager": Variant("Nexus, not compiled", _nexus(fused=False)),
    "naive": Variant("naive PyTorch", _over_logits(plain_loss)),
    "naive_compiled": Variant("naive PyTorch, torch.compile", _over_logits(plain_loss, True)),
    "liger": Variant("Liger chunked JSD, compiled", _liger(True), "liger-kernel"),
    "liger_eager": Variant("Liger chunked JSD, not compiled", _liger(False), "liger-kernel"),
    "trl": Variant("TRL GKD loss + cross-entropy", _over_logits(_trl_loss), "trl"),
}
"""All that are compared, in the order of the table."""
