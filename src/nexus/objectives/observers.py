"""What is watched beside the losses, at temperature 1 and without gradient, one value per token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.batch import Targets
from nexus.objectives import divergences
from nexus.objectives.output import align
from nexus.objectives.task import negative_log_likelihood
from nexus.signals import Scores, Support


def forward_kl(
    student: Scores, teacher: Scores | Support | None, targets: Targets
) -> Float[Tensor, " n"]:
    """KL(teacher || student) on the teacher's support."""
    return divergences.forward_kl(*align(student, _present(teacher), 1.0, sampled=True))


def reverse_kl(
    student: Scores, teacher: Scores | Support | None, targets: Targets
) -> Float[Tensor, " n"]:
    """KL(student || teacher) on the teacher's support."""
    return divergences.reverse_kl(*align(student, _present(teacher), 1.0, sampled=False))


def agreement(
    student: Scores, teacher: Scores | Support | None, targets: Targets
) -> Float[Tensor, " n"]:
    """1 where the teacher's most likely token is also the student's, else 0."""
    return (student.logits.argmax(-1) == _top(_present(teacher))).float()


def agreement_or_tie(
    student: Scores, teacher: Scores | Support | None, targets: Targets
) -> Float[Tensor, " n"]:
    """As `agreement`, but ties count as agreement: for a live view, not for a result.

    Written without argmax, which does not fuse and costs as much as the loss itself.
    """
    teacher, own = _present(teacher), student.logits
    if isinstance(teacher, Support):
        return (own.gather(-1, _top(teacher).unsqueeze(-1)).squeeze(-1) == own.amax(-1)).float()
    is_top = teacher.logits == teacher.logits.amax(-1, keepdim=True)
    return (torch.where(is_top, own, -torch.inf).amax(-1) == own.amax(-1)).float()


def nll(student: Scores, teacher: Scores | Support | None, targets: Targets) -> Float[Tensor, " n"]:
    """-log q(target)."""
    return negative_log_likelihood(student, targets)


def _present(teacher: Scores | Support | None) -> Scores | Support:
    if teacher is None:
        raise ValueError("a comparison with the teacher needs what the teacher said")
    return teacher


def _top(teacher: Scores | Support) -> Int[Tensor, " n"]:
    """The teacher's most likely token."""
    if isinstance(teacher, Scores):
        return teacher.logits.argmax(-1)
    return teacher.ids.gather(-1, teacher.log_probs.argmax(-1, keepdim=True)).squeeze(-1)
