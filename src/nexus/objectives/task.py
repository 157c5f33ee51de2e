"""The task loss: cross-entropy on the targets themselves."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.batch import Targets
from nexus.objectives.objective import TokenObjective
from nexus.signals import Scores, Signal, Support


class Task(TokenObjective):
    """-log q(target). Its weight is what the literature and this project call alpha."""

    kind: Literal["task"] = "task"

    @property
    def needs(self) -> Signal:
        return Signal.NONE

    @property
    def temperatures(self) -> frozenset[float]:
        return frozenset({1.0})

    def per_token(
        self, student: Scores, teacher: Scores | Support | None, targets: Targets
    ) -> Float[Tensor, " n"]:
        return negative_log_likelihood(student, targets)


def negative_log_likelihood(student: Scores, targets: Targets) -> Float[Tensor, " n"]:
    """-log q(target). Written as a masked sum: it fuses, where a gather's gradient is a scatter."""
    columns = torch.arange(student.logits.shape[-1], device=student.logits.device)
    at_target = torch.where(columns == targets.tokens.unsqueeze(-1), student.logits, 0.0).sum(-1)
    return student.normalizer() - at_target
