"""How teacher and student behave: the teacher is frozen and answers alike, dropout is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nexus.batch import Batch
from nexus.data.chat import Example
from nexus.objectives.task import Task
from nexus.proofs import Proof
from nexus.signals import Headed, Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.teachers.teacher import Teacher
from nexus.training.invariants.exact import seeded
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import Subject
from nexus.training.invariants.values import COMPARED, FLOOR, references
from nexus.training.invariants.verdict import at_most, holds

ALONE = "alpha = 1 is plain cross-entropy bit for bit, and does not run the teacher"
TRUTH = "with alpha = 1 the loss is PyTorch's cross-entropy of the next token"


def teacher_proofs(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """Asked twice it says the same, also after somebody put it in training mode; it is frozen."""
    batch, teacher = singly(pieces[:2], subject.device), subject.teacher
    with seeded(subject.device):
        first = _hidden(teacher, batch)
        teacher.model.train()
        second = _hidden(teacher, batch)
        teacher.model.eval()
    gap = float((first - second).double().norm() / first.double().norm().clamp_min(1e-30))
    yield at_most(
        "teacher", "the teacher says the same when it is asked twice", gap, 0.0,
        "relative change of its hidden states",
        "Something in the teacher is drawn at random (dropout, router noise): switch it off in its "
        "config.json.",
    )  # fmt: skip
    trained = [name for name, weight in teacher.model.named_parameters() if weight.requires_grad]
    attached = first.requires_grad or second.requires_grad
    detail = "no weight asks for a gradient, and no answer carries one"
    if trained or attached:
        detail = f"{trained[0] if trained else 'its answer'} asks for a gradient"
    yield holds(
        "teacher", "the teacher is frozen and outside of the gradient",
        not trained and not attached, detail,
        "The teacher would be trained along or its activations kept: pass it through LocalTeacher, "
        "and share no weight with the student.",
    )  # fmt: skip


def alpha_one_proofs(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """The task loss alone, with the other terms at weight zero and without them."""
    group = [singly(pieces[:COMPARED], subject.device)]
    task = Task(name="task alone")
    silenced = tuple(o.model_copy(update={"weight": 0.0}) for o in subject.objectives)
    counted = Counting(subject.teacher)
    plain = subject.step(group, (task,), counted)
    beside = subject.step(group, (task, *silenced), counted)
    same = plain.loss == beside.loss and all(
        torch.equal(gradient, beside.gradients[name]) for name, gradient in plain.gradients.items()
    )
    yield holds(
        "loss", ALONE, same and not counted.asked,
        f"loss and gradient with the other terms at weight 0 {'are' if same else 'are not'} those "
        f"without them; the teacher was asked {counted.asked} times",
        "A term of weight 0 still takes part, which is a bug: leave it out of the recipe, and "
        "report it.",
    )  # fmt: skip
    count = int(group[0].target_count)
    truth = references(subject, (task,), pieces[:COMPARED])[task.label] / count
    yield at_most(
        "loss", TRUTH, abs(plain.loss - truth) / max(truth, FLOOR), subject.limit,
        f"{plain.loss:.5f} nats a token; relative difference from {truth:.5f} in float64",
        "The loss does not belong to the token that follows (a shift, a head or an adapter that is "
        "left out): use another architecture, or leave the head out of the adapter.",
    )  # fmt: skip


def dropout_proof(subject: Subject, pieces: Sequence[Example]) -> Proof:
    """In training mode, two passes over the same rows differ if anything is dropped at random."""
    name = "the student says the same twice in training mode (no dropout)"
    batch = singly(pieces[:2], subject.device)
    subject.student.train()
    try:
        with seeded(subject.device):
            one, other = (float(subject.losses(batch, (Task(),)).total) for _ in range(2))
    finally:
        subject.student.eval()
    lora = subject.settings.lora
    intended = lora is not None and lora.dropout > 0
    change = abs(one - other) / max(abs(other), 1e-12)
    detail = f"relative change of the loss: {change:.2g}"
    if change and intended:
        return holds(
            "loss", name, True, f"{detail}, from train.lora.dropout, as the recipe asks", ""
        )
    return holds(
        "loss", name, not change, f"{detail}{_named(subject.student) if change else ''}",
        "A student in dropout follows its teacher less closely: set its dropout to 0 in its "
        "config.json, unless you want it.", hard=False,
    )  # fmt: skip


class Counting(Teacher):
    """A teacher that counts how often it is asked."""

    def __init__(self, teacher: LocalTeacher) -> None:
        self._teacher, self.asked = teacher, 0

    @property
    def provides(self) -> Signal:
        return self._teacher.provides

    @property
    def vocabulary(self) -> int:
        return self._teacher.vocabulary

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        self.asked += 1
        return self._teacher.signals(batch, wanted)


def _hidden(teacher: LocalTeacher, batch: Batch) -> torch.Tensor:
    told = teacher.signals(batch, teacher.provides).distribution
    if not isinstance(told, Headed):
        raise TypeError(f"a local teacher gives hidden states and a head, not {told!r}")
    return told.hidden


def _named(student: nn.Module) -> str:
    """Where dropout comes from, as far as modules and the configuration say."""
    parts = [
        name for name, part in student.named_modules() if isinstance(part, nn.Dropout) and part.p
    ]
    config = student.config.get_text_config().to_dict()  # type: ignore[operator, union-attr]
    parts += [key for key, value in config.items() if "drop" in key and value]
    return f", from {', '.join(parts[:3])}" if parts else ""
