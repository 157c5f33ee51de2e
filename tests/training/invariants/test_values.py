"""Losses against float64, zero at the teacher itself, and rows that stand for no token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nexus.kernels.lm_head import Trunk
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.training.invariants.values import padding_rows_proof, self_proofs, value_proofs


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_passes(
    subject_with: Callable[..., Any], pieces: list[Any], name: str
) -> None:
    terms = (Output(divergence=name, temperature=2.0),)
    subject = subject_with(objectives=terms)
    proofs = [*value_proofs(subject, pieces), *self_proofs(subject, pieces, terms)]
    # dkd weighs the rest otherwise than KL does, and is zero at its zero all the same.
    assert [proof.detail for proof in proofs if proof.outcome != "proved"] == []
    assert len(proofs) == 3


def test_a_head_that_does_more_than_the_loss_knows_is_caught(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    subject.student.lm_head.register_forward_hook(lambda _, __, logits: logits * 1.01)
    said = {proof.name: proof.outcome for proof in value_proofs(subject, pieces)}
    assert set(said.values()) == {"failed"}


def test_rows_beyond_the_vocabulary_are_overwritten_and_put_back(
    scene: SimpleNamespace, subject_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [scene.make_document(torch.arange(3, 15).numpy()) for _ in range(2)]
    subject = subject_with(vocabulary=scene.VOCABULARY - 5)
    subject.teacher.trunk = type(subject.teacher.trunk)(subject.teacher.model, scene.VOCABULARY - 5)
    subject.teacher.speaker._trunk = subject.teacher.trunk
    before = subject.student.lm_head.weight.detach().clone()
    assert padding_rows_proof(subject, few).outcome == "proved"
    assert torch.equal(subject.student.lm_head.weight, before)
    plain = Trunk.head
    monkeypatch.setattr(Trunk, "head", lambda trunk: replace(plain(trunk), vocabulary=61))
    assert padding_rows_proof(subject, few).outcome == "failed"
    assert torch.equal(subject.student.lm_head.weight, before)
