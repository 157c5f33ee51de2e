"""Teachers that draw lots, are trained along or run for nothing; students in dropout."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from nexus.training.invariants.conduct import alpha_one_proofs, dropout_proof, teacher_proofs


def test_a_sound_teacher_and_student(subject_with: Callable[..., Any], pieces: list[Any]) -> None:
    subject = subject_with()
    proofs = [*teacher_proofs(subject, pieces), *alpha_one_proofs(subject, pieces),
              dropout_proof(subject, pieces)]  # fmt: skip
    assert {proof.outcome for proof in proofs} == {"proved"}
    assert not subject.teacher.model.training and not subject.student.training


def test_a_teacher_that_draws_lots_is_caught(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    subject.teacher.model.model.norm.register_forward_hook(
        lambda _, __, out: out + 1e-3 * torch.randn_like(out)
    )
    assert [proof.outcome for proof in teacher_proofs(subject, pieces)] == ["failed", "proved"]


def test_a_teacher_that_is_trained_along_is_caught(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    subject.teacher.model.lm_head.weight.requires_grad_(True)
    same, frozen = teacher_proofs(subject, pieces)
    assert same.outcome == "proved"
    assert frozen.outcome == "failed" and "lm_head.weight" in frozen.detail


def test_dropout_that_the_recipe_asks_for_is_no_fault(
    scene: SimpleNamespace, subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    student = scene.make_model(2, dropout=0.3)
    assert dropout_proof(subject_with(student=student), pieces).outcome == "doubtful"
    asked = scene.make_settings(lora={"rank": 2, "dropout": 0.3})
    said = dropout_proof(subject_with(student=student, settings=asked), pieces)
    assert said.outcome == "proved" and "train.lora.dropout" in said.detail
