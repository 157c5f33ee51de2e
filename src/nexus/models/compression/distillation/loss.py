"""distillation_loss: the divergence between two tensors of logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.signals import Scores


def distillation_loss(
    student_logits: Float[Tensor, "*positions v"],
    teacher_logits: Float[Tensor, "*positions v"],
    T: float = 2.0,  # noqa: N803 the name the literature knows it by
    *,
    mask: Shaped[Tensor, "*positions"] | None = None,
    divergence: str = "forward_kl",
    **parameters: Any,
) -> Float[Tensor, ""]:
    """T² · D(teacher || student) at temperature T, averaged over positions, in nats.

    Position t of both must predict the same token, which they do when both models saw the same
    input: no shift is needed. The teacher receives no gradient. Statistics are fp32.

    This takes whole logits; `KnowledgeDistiller` never holds them and is several times faster.

    Args:
        student_logits: with gradient.
        teacher_logits: over the same vocabulary.
        T: the temperature. 2 is the specification's default; 1 measured best on language models
            (arXiv:2502.08606, G.2).
        mask: true (or 1) where a position counts; all do by default.
        divergence: any name of `nexus.objectives.divergences.DIVERGENCES` that reads no targets.
        parameters: of the divergence: `beta` and `normalize` of jsd, `skew`, …

    Raises:
        UsageError: for shapes that differ, an unknown divergence, or a temperature of 0 or less.
    """
    if student_logits.shape != teacher_logits.shape:
        raise UsageError(
            f"student_logits is {tuple(student_logits.shape)}, teacher_logits is "
            f"{tuple(teacher_logits.shape)}: both must be [..., vocabulary] of one tokenizer. Cut "
            "padded vocabularies to the tokenizer's size first"
        )
    if odd := sorted(parameters.keys() & {"kind", "name", "weight"}):
        raise UsageError(f"'{odd[0]}' is no parameter of divergence '{divergence}': drop it")
    objective = Output.parse({"temperature": T, **parameters, "divergence": divergence})
    if DIVERGENCES[divergence].reads_targets:
        raise UsageError(
            f"divergence '{divergence}' needs to know the target tokens: use KnowledgeDistiller"
        )
    vocabulary = student_logits.shape[-1]
    student = student_logits.reshape(-1, vocabulary).float()
    teacher = teacher_logits.detach().reshape(-1, vocabulary).float()
    if mask is not None:
        if mask.shape != student_logits.shape[:-1]:
            raise UsageError(
                f"mask is {tuple(mask.shape)}, but the logits have the positions "
                f"{tuple(student_logits.shape[:-1])}: give one value for each"
            )
        kept = mask.reshape(-1) != 0  # a mask of integers would be taken for row numbers
        student, teacher = student[kept], teacher[kept]
    unknown = torch.zeros(len(student), dtype=torch.long, device=student.device)
    values = objective.per_token(
        Scores(student), Scores(teacher), Targets(unknown, unknown, unknown)
    )
    return values.sum() / max(1, len(student))
