"""The gradient is that of the loss, of all its terms, and reaches all that is to be trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nexus.batch import Batch
from nexus.data.chat import Example
from nexus.objectives.output import Output
from nexus.proofs import Proof
from nexus.training.invariants.exact import norm, seeded, weights_kept
from nexus.training.invariants.pieces import singly
from nexus.training.invariants.subject import ONE, Subject, Taken, alone
from nexus.training.invariants.verdict import at_most, holds, untried

NEGLIGIBLE = 0.01
"""The share of the gradient below which a term is said to do nothing."""

SLOPE_LIMIT = 0.05
STEPS = (1e-2, 2e-3)
"""By which share of itself the loss is to fall in a step; the second where the first is too far."""

NUDGE = 1e-2
"""How much a weight is moved to see whether the model heeds it, relative to its size."""

REACHED = "every weight that is trained gets a gradient"
SLOPE = "a step along the gradient changes the loss as the gradient says"
FOLLOWS = "a step of the student leaves the teacher alone"
SHOWN = 3


def term_proofs(subject: Subject, pieces: Sequence[Example]) -> Iterator[Proof]:
    """Each term alone has a gradient, which is no negligible part of the whole."""
    group = [singly(pieces[:2], subject.device)]
    sizes = {
        objective.label: norm(list(subject.step(group, alone(objective)).gradients.values()))
        for objective in subject.objectives
    }
    labels = [objective.label for objective in subject.objectives]
    weighted = {
        label: abs(weight) * sizes[label]
        for label, weight in zip(labels, subject.weights, strict=True)
    }
    total = sum(weighted.values()) or 1.0
    for label in labels:
        name = f"the term '{label}' changes the gradient"
        share = weighted[label] / total
        detail = f"{100 * share:.3g} % of the terms' gradient norms"
        if not sizes[label] > 0:
            yield holds(
                "loss", name, False, "its gradient is zero",
                f"Nothing is learnt from '{label}': drop it, or use a student that differs from "
                "the teacher.",
            )  # fmt: skip
        else:
            remedy = f"Raise the weight of '{label}', or drop the term."
            yield holds("loss", name, share >= NEGLIGIBLE, detail, remedy, hard=False)


def reached_proof(subject: Subject, base: Taken, pieces: Sequence[Example]) -> Proof:
    """Weights without a gradient are moved, to see whether the model would heed them."""
    trained = {n: p for n, p in subject.module().named_parameters() if p.requires_grad}
    missed = [
        name
        for name in trained
        if name not in base.gradients or not bool(base.gradients[name].any())
    ]
    if not missed:
        return holds("loss", REACHED, True, f"{len(trained)} tensors", "")
    named = ", ".join(name.removeprefix("student.") for name in missed[:SHOWN])
    named += f" and {len(missed) - SHOWN} more" if len(missed) > SHOWN else ""
    if heeded(subject, [trained[name] for name in missed], pieces):
        return holds(
            "loss", REACHED, False, f"{named} change what the student says, but get no gradient",
            "Something cuts the gradient off on its way, or a loss reads other weights than the "
            "model (an adapter on the head): leave them out of train.lora.targets, or freeze them.",
        )  # fmt: skip
    return holds(
        "loss", REACHED, False, f"{named} get none, and change nothing of what the student says",
        "They are not used by these tokens (experts that were not asked) or by this model: freeze "
        "them, or leave them.", hard=False,
    )  # fmt: skip


@torch.no_grad()
def heeded(subject: Subject, weights: list[Tensor], pieces: Sequence[Example]) -> bool:
    """Whether the model's own logits change when these weights do. They are put back."""
    batch = singly(pieces[:2], subject.device)
    before = subject.student(input_ids=batch.input_ids, use_cache=False).logits
    saved = [weight.clone() for weight in weights]
    with seeded(subject.device):
        for weight in weights:
            size = weight.abs().mean() if bool(weight.any()) else 1.0
            weight.add_(torch.randn_like(weight) * NUDGE * size)
    after = subject.student(input_ids=batch.input_ids, use_cache=False).logits
    for weight, value in zip(weights, saved, strict=True):
        weight.copy_(value)
    return not torch.equal(before, after)


def slope_proofs(subject: Subject, base: Taken, batch: Batch) -> Iterator[Proof]:
    """The student is moved along its gradient and back; the teacher must not notice."""
    if base.is_rounding:
        yield from (untried("loss", name, ONE) for name in (SLOPE, FOLLOWS))
        return
    length = norm(list(base.gradients.values()))
    if (noise := _rounding(subject)) > SLOPE_LIMIT * STEPS[0] * abs(base.loss):
        why = (
            f"at such a temperature float32 rounds the loss by up to {noise:.1g} nats a token, "
            f"and it is {abs(base.loss):.1g}"
        )
        yield untried("loss", SLOPE, why)
        yield untried("loss", FOLLOWS, why)
        return
    wanted = subject.module().wanted(subject.weights)
    told = subject.teacher.signals(batch, subject.teacher.provides)
    slopes = []
    with weights_kept(subject.student):
        named = dict(subject.module().named_parameters())
        at = 0.0
        for share in STEPS:
            step = share * abs(base.loss) / length**2
            ends = []
            for goal in (step, -step):
                _move(named, base, goal - at)
                at = goal
                ends.append(_mean(subject, batch))
            slopes.append((ends[0] - ends[1]) / (2 * step * length**2))
            if abs(slopes[-1] - 1) <= SLOPE_LIMIT:
                break
        again = subject.teacher.signals(batch, subject.teacher.provides)
    slope = min(slopes, key=lambda each: abs(each - 1))
    yield at_most(
        "loss", SLOPE, abs(slope - 1), SLOPE_LIMIT,
        f"the loss changes {slope:.4f} times as much; distance from 1",
        "The gradient is not that of the loss: set train.compile: false, use another attention "
        "implementation (eager), and report it if it remains.",
    )  # fmt: skip
    same = _equal(told.distribution, again.distribution)
    detail = "asked again while the student was moved" if wanted else "no term needs it"
    yield holds(
        "teacher", FOLLOWS, same, detail,
        "Teacher and student share weights: load them apart, or give the student a copy.",
    )  # fmt: skip


def _rounding(subject: Subject) -> float:
    """Nats a token: what a loss in float32 may be off by, when T² magnifies its last digit."""
    digit = torch.finfo(torch.float32).eps * math.log(subject.vocabulary)
    scales = (
        abs(weight) * objective.temperature**2
        for objective, weight in zip(subject.objectives, subject.weights, strict=True)
        if isinstance(objective, Output) and objective.square_temperature
    )
    return digit * sum(scales)


def _mean(subject: Subject, batch: Batch) -> float:
    return float(subject.losses(batch).total) / max(int(batch.target_count), 1)


@torch.no_grad()
def _move(named: dict[str, torch.nn.Parameter], base: Taken, by: float) -> None:
    for name, gradient in base.gradients.items():
        named[name].add_(gradient, alpha=by)


def _equal(one: object, other: object) -> bool:
    from nexus.signals import Headed

    if not isinstance(one, Headed) or not isinstance(other, Headed):
        return True
    return torch.equal(one.hidden, other.hidden)
