"""What is watched beside the losses, at temperature 1 and without gradient, one value per token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus.batch import Targets
from nexus.objectives import divergences
from nexus.objectives.output import FLOOR, align
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


class Compared(NamedTuple):
    """All that an evaluation asks of a position, of teacher p and student q."""

    forward_kl: Float[Tensor, " n"]
    reverse_kl: Float[Tensor, " n"]
    agreement: Float[Tensor, " n"]
    """1 where both have the same most likely token."""
    acceptance: Float[Tensor, " n"]
    """Σ min(p, q), one less the total variation: what speculative decoding accepts (2211.17192)."""
    student_nll: Float[Tensor, " n"]
    student_entropy: Float[Tensor, " n"]
    """-Σ q log q, in nats."""
    student_confidence: Float[Tensor, " n"]
    """The probability of the most likely token."""
    student_correct: Float[Tensor, " n"]
    """1 where the most likely token is the target."""
    teacher_nll: Float[Tensor, " n"]
    teacher_entropy: Float[Tensor, " n"]
    teacher_confidence: Float[Tensor, " n"]
    teacher_correct: Float[Tensor, " n"]


def compared(
    student: Scores, teacher: Scores | Support | None, targets: Targets
) -> Float[Tensor, "compared n"]:
    """The rows of `Compared`, in one pass: log-probabilities and probabilities are taken once.

    Raises:
        ValueError: if the teacher does not give its distribution over the whole vocabulary.
    """
    if not isinstance(teacher, Scores):
        raise ValueError("acceptance and entropy need the teacher's distribution over all tokens")
    log_p, p = teacher.log_and_probs()
    log_q, q = (log_p, p) if student is teacher else student.log_and_probs()
    best_p, best_q = log_p.argmax(-1), log_q.argmax(-1)
    log_p, log_q = log_p.clamp_min_(FLOOR), log_q.clamp_min_(FLOOR)
    # One place for all products: fresh memory of this size costs as much as they do.
    place = torch.minimum(p, q)
    acceptance = place.sum(-1)

    def total(share: Tensor, of: Tensor) -> Tensor:
        return torch.mul(share, of, out=place).sum(-1)

    entropies = [-total(p, log_p), -total(q, log_q)]
    gap = log_p.sub_(log_q) if log_p is not log_q else torch.zeros_like(log_p)
    found = Compared(
        total(p, gap),
        -total(q, gap),
        (best_p == best_q).float(),
        acceptance,
        nll(student, None, targets),
        entropies[1],
        _at(q, best_q),
        (best_q == targets.tokens).float(),
        nll(teacher, None, targets),
        entropies[0],
        _at(p, best_p),
        (best_p == targets.tokens).float(),
    )
    return torch.stack(found)


def _at(values: Float[Tensor, "n v"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _present(teacher: Scores | Support | None) -> Scores | Support:
    if teacher is None:
        raise ValueError("a comparison with the teacher needs what the teacher said")
    return teacher


def _top(teacher: Scores | Support) -> Int[Tensor, " n"]:
    """The teacher's most likely token."""
    if isinstance(teacher, Scores):
        return teacher.logits.argmax(-1)
    return teacher.ids.gather(-1, teacher.log_probs.argmax(-1, keepdim=True)).squeeze(-1)
