"""The layouts differ, and a model that heeds them is caught. More faults: test_selftest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nexus.training.invariants import layouts
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import Subject, Taken

CPU = torch.device("cpu")


def outcomes(subject: Subject, pieces: list[Any]) -> dict[str, str]:
    base = subject.step([singly(pieces, subject.device)])
    return {p.name: p.outcome for p in layouts.layout_proofs(subject, pieces, base)}


def test_healthy_models_heed_no_layout(subject_with: Callable[..., Any], pieces: list[Any]) -> None:
    assert set(outcomes(subject_with(), pieces).values()) == {"proved"}
    unpacked = outcomes(subject_with(packed=False), pieces)
    assert [name for name, said in unpacked.items() if said != "proved"] == [layouts.PACKING]
    few = outcomes(subject_with(), pieces[:2])
    assert [name for name, said in few.items() if said == "proved"] == [
        layouts.AMOUNT,
        layouts.SIDE,
    ]


def test_rounding_is_no_layout(subject_with: Callable[..., Any], pieces: list[Any]) -> None:
    subject = subject_with()
    nothing = Taken(0.0, {"weight": torch.full((3,), 1e-9)})
    proofs = [*layouts.layout_proofs(subject, pieces, nothing)]
    proofs.append(layouts.rearranged(subject, pieces, nothing))
    assert {proof.outcome for proof in proofs} == {"skipped"}


def test_a_layer_that_mixes_rows_is_caught(
    subject_with: Callable[..., Any], pieces: list[Any]
) -> None:
    subject = subject_with()
    subject.student.model.norm.register_forward_hook(lambda _, __, out: out + out.mean(0))
    assert outcomes(subject, pieces)[layouts.SPLIT] == "failed"


def test_everything_at_once(subject_with: Callable[..., Any], pieces: list[Any]) -> None:
    for packed in (True, False):
        subject = subject_with(packed=packed)
        base = subject.step([singly(pieces, CPU)])
        assert layouts.rearranged(subject, pieces, base).outcome == "proved"
        other = subject.step([singly(pieces[1:], CPU)])
        assert layouts.rearranged(subject, pieces, other).outcome == "failed"
