"""Targets that are not the next token, and models that look ahead, are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from nexus.training.invariants.positions import causality_proof, shift_proofs, targets_proof


def test_the_loader_shifts_as_it_should(scene: SimpleNamespace) -> None:
    documents = scene.make_documents([9, 12, 20])
    proof = targets_proof(scene.in_rows([documents[:2], documents[2:]]))
    assert proof.outcome == "proved" and proof.detail.startswith(
        str(sum(document.target_count for document in documents))
    )


@pytest.mark.parametrize("by", [-1, 1, 2])
def test_targets_that_stand_elsewhere_are_caught(scene: SimpleNamespace, by: int) -> None:
    (batch,) = scene.in_rows([scene.make_documents([9, 12])])
    shifted = replace(batch, targets=batch.targets.roll(by, 1))
    assert targets_proof([shifted]).outcome == "failed"


def test_a_target_in_the_next_document_is_caught(scene: SimpleNamespace) -> None:
    (batch,) = scene.in_rows([scene.make_documents([9, 12])])
    targets = batch.targets.clone()
    targets[0, 8] = batch.input_ids[0, 9]
    assert targets_proof([replace(batch, targets=targets)]).outcome == "failed"


@pytest.mark.parametrize("by", [-1, 1])
def test_states_of_another_position_are_caught(
    subject_with: Callable[..., Any], pieces: list[Any], by: int
) -> None:
    subject = subject_with()
    assert [proof.outcome for proof in shift_proofs(subject, pieces)] == ["proved", "proved"]
    # Before the position is moved, so that what is moved is what the loss must read.
    backbone = subject.student.model
    plain = type(subject.module()).forward

    def late(module: Any, batch: Any, *rest: Any) -> Any:
        return plain(module, replace(batch, targets=batch.targets.roll(by, 1)), *rest)

    made = type(subject.module())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "forward", late)
        said = [proof.outcome for proof in shift_proofs(subject, pieces)]
    assert said[0] == "failed"
    assert not backbone._forward_hooks


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_look_ahead_is_caught(
    subject_with: Callable[..., Any], pieces: list[Any], role: str
) -> None:
    subject = subject_with()
    assert causality_proof(subject, pieces).outcome == "proved"
    model = subject.student if role == "student" else subject.teacher.model
    model.model.layers[0].register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))
    said = causality_proof(subject, pieces)
    assert said.outcome == "failed" and role in said.detail
