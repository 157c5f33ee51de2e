"""A step of the subject is a training step that moves nothing and is not clipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.schedule import Linear
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import Taken, alone, distance

CPU = torch.device("cpu")


def test_a_step_gives_the_gradient_of_training_without_clipping(
    scene: SimpleNamespace, subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    before = [weight.detach().clone() for weight in subject.student.parameters()]
    taken = subject.step([singly(pieces, CPU)])
    expected = scene.step_gradient(
        [singly(pieces, CPU)], student=subject.student, teacher=subject.teacher
    )
    assert distance(taken, Taken(taken.loss, expected)) < 1e-6
    pairs = zip(subject.student.parameters(), before, strict=True)
    assert all(torch.equal(now, was) and now.grad is None for now, was in pairs)


def test_the_loss_of_a_step_is_the_mean_of_its_losses(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject, batch = subject_with(), singly(pieces, CPU)
    total = float(subject.losses(batch).total)
    assert subject.step([batch]).loss == pytest.approx(total / int(batch.target_count), rel=1e-6)


def test_terms_that_begin_later_are_seen(subject_with: Callable[..., Any]) -> None:
    late = (Task(weight=0.5), Output(weight=Linear(start=0.0, end=1.0)))
    assert all(subject_with(objectives=late).weights)


def test_one_term_alone() -> None:
    (term,) = alone(Output(weight=0.2, temperature=3.0))
    assert term.weight == 1.0 and isinstance(term, Output) and term.temperature == 3.0


def test_the_distance_of_two_steps() -> None:
    one = Taken(2.0, {"w": torch.tensor([3.0, 4.0])})
    assert distance(one, one) == 0.0
    assert distance(replace(one, loss=3.0), one) == 0.5
    assert distance(Taken(2.0, {"w": torch.tensor([3.0, 3.0])}), one) == pytest.approx(0.2)
    assert distance(Taken(2.0, {}), one) == float("inf")
    assert distance(replace(one, loss=float("nan")), one) != distance(one, one)
