"""Weights without a gradient: whether the model heeds them decides. Slopes are what they should."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nexus.objectives.output import Output
from nexus.teachers.local import LocalTeacher
from nexus.training.invariants.gradients import (
    heeded,
    reached_proof,
    slope_proofs,
    term_proofs,
)
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import Taken

CPU = torch.device("cpu")


def test_weights_that_are_not_used_are_doubtful(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    subject.student.idle = torch.nn.Linear(2, 2)
    said = reached_proof(subject, subject.step([singly(pieces, CPU)]), pieces)
    assert said.outcome == "doubtful" and "idle.weight" in said.detail


def test_a_used_weight_without_gradient_fails_and_is_put_back(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    base = subject.step([singly(pieces, CPU)])
    assert reached_proof(subject, base, pieces).outcome == "proved"
    name = "student.model.layers.1.mlp.up_proj.weight"
    weight = subject.student.model.layers[1].mlp.up_proj.weight
    before = weight.detach().clone()
    for cut in ({n: g for n, g in base.gradients.items() if n != name},
                {**base.gradients, name: torch.zeros_like(weight)}):  # fmt: skip
        assert reached_proof(subject, Taken(base.loss, cut), pieces).outcome == "failed"
    assert torch.equal(weight, before)
    assert heeded(subject, [weight], pieces)


def test_a_gradient_of_another_size_or_place_fails(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject, batch = subject_with(), singly(pieces, CPU)
    base = subject.step([batch])
    for factor, outcome in ((1.0, "proved"), (1.1, "failed"), (-1.0, "failed")):
        other = Taken(base.loss, {n: factor * g for n, g in base.gradients.items()})
        said = next(iter(slope_proofs(subject, other, batch)))
        assert said.outcome == outcome, factor


@pytest.mark.parametrize(("temperature", "outcome"), [(4.0, "proved"), (3000.0, "skipped")])
def test_where_t_squared_magnifies_rounding_no_gradient_is_accused(
    subject_with: Callable[..., Any], pieces: list[Any], temperature: float, outcome: str
) -> None:
    subject = subject_with(objectives=(Output(temperature=temperature),))
    batch = singly(pieces, CPU)
    said = list(slope_proofs(subject, subject.step([batch]), batch))
    assert said[0].outcome == outcome, said[0].detail


def test_a_student_that_is_its_teacher_is_not_moved(
    scene: SimpleNamespace, subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    student = scene.make_model(2)
    subject = subject_with(
        teacher=LocalTeacher(scene.make_model(2)), student=student, objectives=(Output(),)
    )
    batch = singly(pieces, CPU)
    base = Taken(0.0, {n: torch.zeros_like(p) for n, p in subject.module().named_parameters()})
    assert [p.outcome for p in slope_proofs(subject, base, batch)] == ["skipped", "skipped"]
    left = {n: g + 1e-9 for n, g in base.gradients.items()}  # of a loss of 0: what rounding leaves
    said = slope_proofs(subject, Taken(0.0, left), batch)
    assert [p.outcome for p in said] == ["skipped", "skipped"]


def test_each_term_is_weighed(subject_with: Callable[..., Any], pieces: list[Any]) -> None:
    assert [p.outcome for p in term_proofs(subject_with(), pieces)] == ["proved", "proved"]
