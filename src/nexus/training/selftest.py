"""invariants(): what must hold of any distillation, proved on the user's own models and text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.chat import Example
from nexus.objectives.output import Output
from nexus.proofs import Proof
from nexus.teachers.local import LocalTeacher
from nexus.training.invariants.conduct import alpha_one_proofs, dropout_proof, teacher_proofs
from nexus.training.invariants.exact import as_it_was, can_be_exact, prepared
from nexus.training.invariants.gradients import reached_proof, slope_proofs, term_proofs
from nexus.training.invariants.layouts import layout_proofs, rearranged
from nexus.training.invariants.pieces import pieces_of, singly
from nexus.training.invariants.positions import causality_proof, shift_proofs, targets_proof
from nexus.training.invariants.subject import Objectives, Subject
from nexus.training.invariants.values import padding_rows_proof, self_proofs, value_proofs
from nexus.training.invariants.verdict import holds, untried
from nexus.training.settings import TrainSpec

EXACT, COARSE = 1e-3, 0.12
"""The relative difference that rounding explains in fp32, and where only half precision runs."""


class Planned(Protocol):
    """A stage of a recipe: its name, its terms and how it trains."""

    @property
    def name(self) -> str: ...
    @property
    def objectives(self) -> Objectives: ...
    @property
    def train(self) -> TrainSpec: ...


def invariants(
    *,
    teacher: LocalTeacher,
    student: PreTrainedModel,
    stages: Sequence[Planned],
    batches: Sequence[Batch],
    vocabulary: int,
    packed: bool,
) -> Iterator[Proof]:
    """Prove, one after another, what must hold before a student is trained.

    A few short pieces of the batches, some sixty tokens, go through the code that trains, in fp32
    and without dropout. Once the iterator has ended or is closed, weights, modes, gradients and
    random numbers are what they were; in between the models are not to be used.

    Args:
        teacher: frozen.
        student: as the first stage gets it, before `training.prepare.prepare`.
        stages: of the recipe. What does not differ from stage to stage is proved once.
        batches: the first training batches.
        vocabulary: how many ids the tokenizer has.
        packed: whether rows may hold several documents.
    """
    yield targets_proof(batches)
    pieces = pieces_of(batches)
    if not pieces:
        yield untried("loss", "the invariants of loss and gradient", "no document has two targets")
        return
    exact = can_be_exact(teacher.model) and can_be_exact(student)
    with (
        TemporaryDirectory() as folder,
        as_it_was(teacher.model, exact),
        as_it_was(student, exact),
    ):
        done: list[Subject] = []
        for stage in stages:
            with prepared(student, stage.train) as model:
                precision = "fp32" if exact else stage.train.precision
                settings = stage.train.model_copy(update={"precision": precision})
                subject = Subject(
                    teacher, model, stage.objectives, settings, vocabulary, packed, Path(folder),
                    EXACT if exact else COARSE,
                )  # fmt: skip
                proofs = _first(subject, pieces) if not done else _later(subject, pieces, done)
                suffix = f" (stage {stage.name})" if len(stages) > 1 else ""
                for proof in proofs:
                    yield proof.model_copy(update={"name": proof.name + suffix})
                done.append(subject)


def _first(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """Everything, from what is cheap and telling to what is dear."""
    yield from teacher_proofs(subject, pieces)
    yield causality_proof(subject, pieces)
    yield from shift_proofs(subject, pieces)
    yield padding_rows_proof(subject, pieces)
    yield from value_proofs(subject, pieces)
    if not subject.learns(singly(pieces[:1], subject.device)):
        yield _cut_off()
        return
    yield from self_proofs(subject, pieces, _outputs(subject))
    yield from alpha_one_proofs(subject, pieces)
    yield dropout_proof(subject, pieces)
    yield from term_proofs(subject, pieces)
    batch = singly(pieces, subject.device)
    base = subject.step([batch])
    if not base.gradients:
        yield _unsound()
        return
    yield reached_proof(subject, base, pieces)
    yield from layout_proofs(subject, pieces, base)
    yield from slope_proofs(subject, base, batch)


def _later(subject: Subject, pieces: Sequence[Example], done: Sequence[Subject]) -> Iterator[Proof]:
    """What is new in a stage after the first: its terms, and its adapter."""
    known = [(other.objectives, other.settings.lora) for other in done]
    if (subject.objectives, subject.settings.lora) in known:
        return
    if not subject.learns(singly(pieces[:1], subject.device)):
        yield _cut_off()
        return
    yield from value_proofs(subject, pieces)
    seen = {objective for other in done for objective in other.objectives}
    yield from self_proofs(subject, pieces, [o for o in _outputs(subject) if o not in seen])
    yield from term_proofs(subject, pieces)
    base = subject.step([singly(pieces, subject.device)])
    if not base.gradients:
        yield _unsound()
        return
    yield reached_proof(subject, base, pieces)
    yield rearranged(subject, pieces, base)


def _outputs(subject: Subject) -> list[Output]:
    return [objective for objective in subject.objectives if isinstance(objective, Output)]


def _cut_off() -> Proof:
    return holds(
        "loss", "the loss depends on what is trained", False, "it has no gradient at all",
        "Every trained weight is cut off from the loss (frozen, detached in the model's code, or "
        "left out by train.lora.targets): train weights that the loss depends on.",
    )  # fmt: skip


def _unsound() -> Proof:
    return holds(
        "loss", "loss and gradient are finite on the first rows", False, "they are not",
        "Look for infinite or missing numbers in the weights of teacher and student, and load them "
        "in float32.",
    )  # fmt: skip
