"""Output distillation: a divergence between teacher and student, softened by a temperature."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.objective import TokenObjective
from nexus.signals import Scores, Signal, Support
from nexus.spec import nearest

FLOOR = -1.0e6
"""The log of no probability at all: exp gives exactly 0, and 0 · FLOOR is 0 where 0 · inf is not.

Far below any difference of real logits over a temperature, since below it there is no gradient.
"""


class Output(TokenObjective):
    """T² · D(teacher^(1/T), student^(1/T)), the loss of Hinton et al. (arXiv:1503.02531).

    T² keeps the gradient's size as the temperature grows; it applies to every divergence alike.
    Measured on language models, T = 1 is best or equal at all scales (arXiv:2502.08606, G.2).
    """

    kind: Literal["output"] = "output"
    divergence: str = Field(default="forward_kl", json_schema_extra={"enum": list(DIVERGENCES)})
    temperature: float = Field(default=1.0, gt=0)
    """Softens teacher and student alike. Text is drawn with `sampling_temperature`, elsewhere."""
    square_temperature: bool = True
    """Whether the term is multiplied by T²."""
    beta: float | None = Field(default=None, ge=0, le=1)
    """jsd: the teacher's share of the mixture. 0 is forward KL, 1 reverse KL."""
    normalize: bool | None = None
    """jsd: divide by beta (1 - beta), which makes beta continuous at both ends."""
    reverse_share: float | None = Field(default=None, ge=0, le=1)
    """symmetric_kl: the share of reverse KL."""
    skew: float | None = Field(default=None, ge=0, lt=1)
    """skew_kl and skew_reverse_kl: how much of the first distribution is mixed into the second."""
    head_mass: float | None = Field(default=None, gt=0, le=1)
    """adaptive_kl: the teacher's mass that counts as its head."""
    a: float | None = None
    """alpha_beta: the exponent of the teacher."""
    b: float | None = None
    """alpha_beta: the exponent of the student."""
    target_weight: float | None = Field(default=None, ge=0)
    """dkd: weight of the target against the rest."""
    rest_weight: float | None = Field(default=None, ge=0)
    """dkd: weight of the distribution within the rest."""

    @field_validator("divergence")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DIVERGENCES:
            raise ValueError(f"it does not exist{nearest(name, DIVERGENCES)}")
        return name

    @model_validator(mode="after")
    def _parameters_belong(self) -> Self:
        given = _given(self)
        foreign = sorted(given.keys() - DIVERGENCES[self.divergence].parameters)
        if foreign:
            takers = [name for name, row in DIVERGENCES.items() if foreign[0] in row.parameters]
            raise ValueError(
                f"'{foreign[0]}' means nothing to divergence '{self.divergence}'. "
                f"Drop it, or use {' or '.join(takers)}"
            )
        return self

    @property
    def needs(self) -> Signal:
        return DIVERGENCES[self.divergence].needs

    @property
    def temperatures(self) -> frozenset[float]:
        return frozenset({self.temperature})

    def per_token(
        self, student: Scores, teacher: Scores | Support | None, targets: Targets
    ) -> Float[Tensor, " n"]:
        if teacher is None:
            raise ValueError(f"objective '{self.label}' was given no teacher")
        row = DIVERGENCES[self.divergence]
        if Signal.FULL_VOCABULARY in row.needs and not isinstance(teacher, Scores):
            raise UsageError(
                f"divergence '{self.divergence}' needs the whole vocabulary, but the teacher knows "
                "a part of it. Use forward_kl, or a teacher with the whole vocabulary"
            )
        log_p, log_q = align(student, teacher, self.temperature, sampled=row.sampled)
        extra = (targets.tokens,) if row.reads_targets else ()
        value: Tensor = row.function(log_p, log_q, *extra, **_given(self))
        return value * self.temperature**2 if self.square_temperature else value


def align(
    student: Scores, teacher: Scores | Support, temperature: float, *, sampled: bool
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Teacher and student as log-probabilities on one support: (log_p, log_q).

    The whole vocabulary, softened; or k ids, with everything else as a last bucket where the
    teacher says what mass is left. A bucket cannot be softened afterwards (its mass at T depends on
    its parts), so a truncated support takes T = 1 only.

    Raises:
        UsageError: for a combination that would change the mathematics.
    """
    if isinstance(teacher, Scores):
        log_p, log_q = teacher.log_probs(temperature), student.log_probs(temperature)
        return log_p.clamp_min(FLOOR), log_q.clamp_min(FLOOR)
    if temperature != 1.0:
        raise UsageError(
            f"temperature {temperature} on a truncated teacher: the mass outside the support is "
            "known at temperature 1 only. Use temperature 1, or a teacher with the whole vocabulary"
        )
    if teacher.rest is None and not sampled:
        raise UsageError("sampled ids estimate forward_kl only: use that divergence")
    log_p, log_q = teacher.log_probs.float(), student.log_probs().gather(-1, teacher.ids)
    if teacher.rest is not None:
        # Not -inf: if the support is everything, the gradient of an empty logsumexp is no number.
        outside = student.logits.scatter(-1, teacher.ids, FLOOR)
        rest_q = torch.logsumexp(outside, dim=-1) - student.normalizer()
        log_p = torch.cat([log_p, teacher.rest.float().unsqueeze(-1)], dim=-1)
        log_q = torch.cat([log_q, rest_q.unsqueeze(-1)], dim=-1)
    return log_p.clamp_min(FLOOR), log_q.clamp_min(FLOOR)


def _given(objective: Output) -> dict[str, Any]:
    """The divergence's own parameters, as far as the recipe sets them."""
    names = set().union(*(row.parameters for row in DIVERGENCES.values()))
    values = {name: getattr(objective, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
