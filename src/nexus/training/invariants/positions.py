"""Every loss stands where it belongs: the shift, and nobody sees what comes after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nexus.batch import IGNORED, PADDING, Batch
from nexus.data.chat import Example
from nexus.kernels.decoder import backbone
from nexus.kernels.lm_head import split_head
from nexus.proofs import Proof
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import Subject
from nexus.training.invariants.verdict import at_most, holds

SHIFT_REMEDY = (
    "A loss is computed from the logits of another position: use another architecture, whose "
    "backbone gives one hidden state a token."
)


def targets_proof(batches: Sequence[Batch]) -> Proof:
    """Every target of the user's own batches is the next token of the same document."""
    wrong = total = 0
    for batch in batches:
        after, owner = batch.input_ids.roll(-1, 1), batch.documents.roll(-1, 1)
        good = (batch.targets == after) & (batch.documents == owner) & (batch.documents != PADDING)
        good[:, -1] = False
        wrong += int((batch.is_target & ~good).sum())
        total += int(batch.target_count)
    return holds(
        "tokens", "every target is the next token of the same document", not wrong,
        f"{wrong} of {total} targets of the first batches are not" if wrong
        else f"{total} targets of the first batches",
        "Targets are shifted twice, not at all, or over the end of a document: build batches with "
        "nexus.data.loader only, and do not shift labels yourself.",
    )  # fmt: skip


def shift_proofs(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """The logits that predict a token move that token's loss, and no other one."""
    longest = max(pieces, key=lambda piece: piece.target_count)
    batch = singly([longest], subject.device)
    columns = batch.is_target[0].nonzero().squeeze(-1)
    at = int(columns[len(columns) // 2])
    here = torch.zeros_like(batch.is_target)
    here[0, at] = True
    own, others = _only(batch, here), _only(batch, ~here)
    still = [float(subject.losses(each).total) for each in (own, others)]
    with _moved(subject.student, at):
        moved = [float(subject.losses(each).total) for each in (own, others)]
    change = abs(moved[0] - still[0]) / max(abs(still[0]), 1e-12)
    yield holds(
        "tokens", "the logits that predict a token move its loss", change > subject.limit,
        f"those at position {at} of a piece were moved; relative change {change:.2g}", SHIFT_REMEDY,
    )  # fmt: skip
    change = abs(moved[1] - still[1]) / max(abs(still[1]), 1e-12)
    yield at_most(
        "tokens", "the logits that predict a token move no other token's loss", change, 0.0,
        f"those at position {at} of a piece were moved; relative change of the others' loss",
        SHIFT_REMEDY,
    )  # fmt: skip


@torch.no_grad()
def causality_proof(subject: Subject, pieces: Sequence[Example]) -> Proof:
    """Changing a token changes nothing before it, in teacher and student."""
    batch = singly([max(pieces, key=len)], subject.device)
    middle = batch.input_ids.shape[1] // 2
    ids = batch.input_ids.clone()
    ids[:, middle:] = (ids[:, middle:] + 1) % subject.vocabulary
    changed = replace(batch, input_ids=ids)
    gaps = {}
    for role, model in (("teacher", subject.teacher.model), ("student", subject.student)):
        trunk = split_head(model, subject.vocabulary, subject.packed)
        one, other = (trunk.hidden(each)[:, :middle].double() for each in (batch, changed))
        gaps[role] = float((one - other).norm() / one.norm().clamp_min(1e-30))
    worst = max(gaps, key=lambda role: gaps[role])
    return at_most(
        "tokens", "no position sees the tokens after it, in teacher and student", gaps[worst],
        subject.limit, f"relative change of the {worst}'s hidden states before a changed token",
        "The model looks ahead at what it is to predict: use a causal language model, with causal "
        "attention.",
    )  # fmt: skip


def _only(batch: Batch, where: Tensor) -> Batch:
    ignored = torch.full_like(batch.targets, IGNORED)
    return replace(batch, targets=batch.targets.where(where, ignored))


@contextmanager
def _moved(student: nn.Module, at: int) -> Iterator[None]:
    """Inside, the hidden state at one column is another one."""

    def move(_: nn.Module, __: Any, output: Any) -> None:
        states: Tensor = output[0]
        # Reversed rather than scaled, which a softmax over few likely tokens might not notice.
        states[:, at] = states[:, at].flip(-1)

    hook = backbone(student).register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()
