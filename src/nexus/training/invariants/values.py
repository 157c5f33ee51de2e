"""The losses are what their names say: against float64, and zero where nothing is to be learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nexus.data.chat import Example
from nexus.kernels.decoder import without_adapters
from nexus.kernels.padding_mass import padding_mass
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.proofs import Proof
from nexus.training.invariants.exact import norm
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.reference import is_independent, reference
from nexus.training.invariants.subject import Subject, alone
from nexus.training.invariants.verdict import at_most, holds

COMPARED = 3
"""How many pieces are computed once more in float64."""

FLOOR = 0.01
"""Nats a token below which a loss is compared to this instead of to itself."""

LOUD = 3.0
"""How much larger than a token's row the rows that stand for none are made."""

SELF_LIMIT = 1e-3
"""The gradient of a divergence at its zero, against that of cross-entropy at the same place."""


def value_proofs(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """Every term, and their weighted sum, against a second computation from whole logits."""
    some = pieces[:COMPARED]
    batch = singly(some, subject.device)
    objectives = subject.objectives
    everything = tuple(objective.model_copy(update={"weight": 1.0}) for objective in objectives)
    terms = subject.losses(batch, everything).terms
    expected = references(subject, objectives, some)
    count = max(int(batch.target_count), 1)
    for objective in objectives:
        value, truth = float(terms[objective.label]), expected[objective.label]
        least = FLOOR * count * _scale(objective)
        gap = abs(value - truth) / max(abs(truth), least)
        detail = f"{value / count:.5f} nats a token; relative difference from {truth / count:.5f}"
        if not is_independent(objective):
            detail = f"(formula shared, T² and softening not) {detail}"
        yield at_most("loss", _name(objective), gap, subject.limit, detail, _remedy(objective))
    weighted = sum(
        weight * expected[objective.label]
        for objective, weight in zip(objectives, subject.weights, strict=True)
    )
    gap = abs(float(subject.losses(batch).total) - weighted) / max(abs(weighted), FLOOR * count)
    yield at_most(
        "loss", "the loss is the sum of weight × term, as the recipe weighs them", gap,
        subject.limit, "relative difference from the same sum in float64",
        "The weights do not reach the terms they belong to, which is a bug: report it with the "
        "recipe's objectives.",
    )  # fmt: skip


def self_proofs(
    subject: Subject, pieces: Sequence[Example], objectives: Sequence[Task | Output]
) -> Iterator[Proof]:
    """The teacher in the student's place has nothing to learn from itself."""
    batch = singly(pieces[:2], subject.device)
    model = subject.teacher.model
    for objective in objectives:
        if not isinstance(objective, Output):
            continue
        own = replace(subject, student=model)
        with _small_part_trained(model):
            here = own.step([batch], alone(objective))
            usual = own.step([batch], (Task(),))
        gradient = norm(list(here.gradients.values())) / max(
            norm(list(usual.gradients.values())), 1e-30
        )
        worst = max(abs(here.loss) / _scale(objective), gradient / _scale(objective))
        yield at_most(
            "loss", f"the teacher as its own student has no loss and no gradient in "
            f"'{objective.label}'", worst if here.gradients else float("nan"), SELF_LIMIT,
            f"loss {here.loss:.1g} nats a token, gradient against that of cross-entropy",
            "Teacher and student do not see or answer the same thing (dropout in the teacher, "
            "another head, a divergence that is none): use a teacher in eval mode and another "
            "divergence.",
        )  # fmt: skip


def padding_rows_proof(subject: Subject, pieces: Sequence[Example]) -> Proof:
    """Rows of the heads that stand for no token have no probability, whatever stands in them."""
    name = "rows of the heads beyond the vocabulary have no probability, on both sides"
    batch = singly(pieces[:2], subject.device)
    heads = [_head_weight(model) for model in (subject.teacher.model, subject.student)]
    beyond = [max(len(weight) - subject.vocabulary, 0) for weight in heads]
    if not any(beyond):
        return holds("tokens", name, True, "neither head has such rows", "")
    before = subject.losses(batch)
    kept = [weight[subject.vocabulary :].detach().clone() for weight in heads]
    try:
        with torch.no_grad():
            for weight in heads:
                rows = weight[subject.vocabulary :]
                rows.copy_(LOUD * weight[: len(rows)])
        after = subject.losses(batch)
    finally:
        with torch.no_grad():
            for weight, rows in zip(heads, kept, strict=True):
                weight[subject.vocabulary :].copy_(rows)
    gap = max(
        abs(float(after.terms[label] - value)) / max(abs(float(value)), FLOOR)
        for label, value in before.terms.items()
    )
    mass = padding_mass(subject.teacher.trunk, batch)
    return at_most(
        "tokens", name, gap, 0.0,
        f"{beyond[0]} rows of the teacher (mass {mass:.1g} of its own) and {beyond[1]} of the "
        "student were overwritten; relative change of the loss",
        "The padding of a head takes part in the loss: remove it with resize_token_embeddings, or "
        "name the tokenizer that the model was trained with.",
    )  # fmt: skip


@torch.no_grad()
def references(
    subject: Subject, objectives: Sequence[Task | Output], pieces: Sequence[Example]
) -> dict[str, float]:
    """Sums over the targets of the pieces, each put alone through the models as they are."""
    totals = {objective.label: 0.0 for objective in objectives}
    for piece in pieces:
        ids = torch.from_numpy(piece.ids).long()
        at = torch.from_numpy(piece.is_target[1:])
        student, teacher = (
            _logits(model, ids.to(subject.device), subject.vocabulary)[:-1][at]
            for model in (subject.student, subject.teacher.model)
        )
        for objective in objectives:
            totals[objective.label] += reference(objective, student, teacher, ids[1:][at])
    return totals


def _logits(model: nn.Module, ids: Tensor, vocabulary: int) -> Tensor:
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits[0, :, :vocabulary].cpu().double()


@contextmanager
def _small_part_trained(model: nn.Module) -> Iterator[None]:
    """Inside, a model's vectors (norms, biases) ask for gradients: few numbers, on all layers."""
    weights = list(model.parameters())
    vectors = [weight for weight in weights if weight.ndim < 2 and weight.is_floating_point()]
    chosen = vectors or [min(weights, key=lambda weight: weight.numel())]
    for weight in chosen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in chosen:
            weight.requires_grad_(False).grad = None


def _head_weight(model: nn.Module) -> Tensor:
    """The head's own weight, without an adapter on it."""
    whole: Any = without_adapters(model)
    layer = whole.get_output_embeddings()
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer
    weight: Tensor = layer.weight
    return weight


def _scale(objective: Task | Output) -> float:
    if isinstance(objective, Task) or not objective.square_temperature:
        return 1.0
    return max(objective.temperature**2, 1.0)


def _name(objective: Task | Output) -> str:
    if isinstance(objective, Task):
        return f"'{objective.label}' is the cross-entropy of the next token"
    square = f"T² = {objective.temperature**2:g} times " if objective.square_temperature else ""
    return f"'{objective.label}' is {square}{objective.divergence} of the softened distributions"


def _remedy(objective: Task | Output) -> str:
    if isinstance(objective, Task):
        return (
            "The loss does not belong to the token that follows (a shift, a head or an adapter "
            "that is left out): use another architecture, or leave the head out of the adapter."
        )
    return (
        "The divergence is not the one that was asked for (direction, temperature, T², a tail left "
        "out): compare the objective with docs/how-to/temperature-and-alpha.md."
    )
