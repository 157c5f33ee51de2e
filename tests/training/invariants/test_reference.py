"""The reference agrees with the objectives at any temperature, and shares no formula with them."""

from __future__ import annotations

import math

import pytest
import torch

from nexus.batch import Targets
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Scores
from nexus.training.invariants.reference import is_independent, reference

OBJECTIVES = [
    Task(),
    *(Output(name=name, divergence=name, temperature=1.7) for name in DIVERGENCES),
    Output(divergence="forward_kl", temperature=3.0, square_temperature=False),
    *(Output(divergence="jsd", beta=beta, normalize=beta == 0.3) for beta in (0.0, 0.3, 1.0)),
    Output(divergence="symmetric_kl", reverse_share=0.2),
    Output(divergence="skew_kl", skew=0.0),
    Output(divergence="skew_reverse_kl", skew=0.4),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_it_is_what_the_objective_gives(objective: Task | Output) -> None:
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(5, 11, dtype=torch.float64) for _ in range(2))
    tokens = torch.randint(11, (5,))
    nothing = torch.zeros_like(tokens)
    per_token = objective.per_token(
        Scores(student.float()), Scores(teacher.float()), Targets(tokens, nothing, nothing)
    )
    value = reference(objective, student, teacher, tokens)
    assert float(per_token.sum()) == pytest.approx(value, rel=1e-5)


def test_values_that_are_known() -> None:
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3.0), 0.0]])
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    tokens = torch.tensor([1])
    for name, value in (("forward_kl", forward), ("reverse_kl", reverse)):
        known = reference(Output(divergence=name), student, teacher.double(), tokens)
        assert known == pytest.approx(value)
    assert reference(Task(), student, teacher.double(), tokens) == pytest.approx(math.log(2))


def test_what_is_proved_of_each_divergence_is_known() -> None:
    assert is_independent(Task()) and is_independent(Output(divergence="jsd"))
    assert not is_independent(Output(divergence="dkd"))
