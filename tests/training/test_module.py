"""The gradient of a step is one thing, however its rows are grouped, padded or packed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nexus.batch import IGNORED, Batch
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.signals import Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.training.module import DistillationModule

TOLERANCE = 1e-6
LENGTHS = [3, 11, 17, 20, 5, 24, 8, 24]


def alone(documents: list[Any]) -> list[list[Any]]:
    return [[document] for document in documents]


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_does_not_change_the_gradient(scene: SimpleNamespace, micro: int) -> None:
    """To see it fail: in training/loop.py, `parallel.world / tokens` → `parallel.world /
    batch.target_count.clamp_min(1) / len(group)`.
    """
    rows = alone(scene.make_documents(LENGTHS))
    whole = scene.step_gradient(scene.in_rows(rows))
    parts = scene.in_rows(rows, micro=micro)
    assert len(parts) == 8 // micro
    assert len({int(batch.target_count) for batch in parts}) > 1
    assert scene.distance(scene.step_gradient(parts), whole) < TOLERANCE


@pytest.mark.parametrize("length", [25, 40, 96])
@pytest.mark.parametrize("packed", [True, False])
def test_the_amount_of_padding_does_not_change_the_gradient(
    scene: SimpleNamespace, length: int, packed: bool
) -> None:
    """To see it fail: in data/loader.py, `targets = np.full(shape, IGNORED, dtype=np.int64)` →
    `targets = np.full(shape, pad_id, dtype=np.int64)`.
    """
    rows = alone(scene.make_documents(LENGTHS))
    tight = scene.step_gradient(scene.in_rows(rows), packed=packed)
    loose = scene.step_gradient(scene.in_rows(rows, length), packed=packed)
    assert scene.distance(loose, tight) < TOLERANCE


@pytest.mark.parametrize("packed", [True, False])
def test_the_side_of_padding_does_not_change_the_gradient(
    scene: SimpleNamespace, packed: bool
) -> None:
    (right,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    names = ("input_ids", "targets", "position_ids", "documents", "parts", "tasks")
    shifts = [24 - length for length in LENGTHS]
    left = replace(right, **{name: rolled(getattr(right, name), shifts) for name in names})
    assert not torch.equal(left.input_ids, right.input_ids)
    one, other = (scene.step_gradient([batch], packed=packed) for batch in (left, right))
    assert scene.distance(one, other) < TOLERANCE


def rolled(rows: torch.Tensor, shifts: list[int]) -> torch.Tensor:
    return torch.stack([row.roll(shift) for row, shift in zip(rows, shifts, strict=True)])


def test_packing_does_not_change_the_gradient(scene: SimpleNamespace) -> None:
    documents = scene.make_documents(LENGTHS)
    singly = scene.step_gradient(scene.in_rows(alone(documents)), packed=False)
    for rows in ([documents[:3], documents[3:5], documents[5:]], [documents]):
        packed = scene.step_gradient(scene.in_rows(rows, length=sum(LENGTHS)))
        assert scene.distance(packed, singly) < TOLERANCE


def test_the_order_of_rows_does_not_change_the_gradient(scene: SimpleNamespace) -> None:
    rows = alone(scene.make_documents(LENGTHS))
    straight = scene.step_gradient(scene.in_rows(rows, micro=2))
    mixed = scene.step_gradient(scene.in_rows([*rows[5:], *rows[4::-1]], micro=2))
    assert scene.distance(mixed, straight) < TOLERANCE


def test_rows_without_targets_add_nothing(scene: SimpleNamespace) -> None:
    rows = alone(scene.make_documents(LENGTHS))
    (batch,) = scene.in_rows(rows[:2])
    silent = replace(batch, targets=torch.full_like(batch.targets, IGNORED))
    with_it = scene.step_gradient([silent, *scene.in_rows(rows), silent])
    assert scene.distance(with_it, scene.step_gradient(scene.in_rows(rows))) < TOLERANCE


def test_the_gradient_is_that_of_the_mean_of_a_plain_loss(scene: SimpleNamespace) -> None:
    """Against transformers' own logits and PyTorch's own losses, without anything of ours."""
    rows = alone(scene.make_documents(LENGTHS))
    ours = scene.step_gradient(scene.in_rows(rows, micro=4), packed=False)
    student, teacher = scene.make_model(), scene.make_model(4, 1)
    total, count = torch.zeros(()), 0
    for (document,) in rows:
        ids = torch.from_numpy(document.ids).long()
        z, v = (model(ids[None]).logits[0, :-1] for model in (student, teacher))
        at = torch.from_numpy(document.is_target[1:])
        cross_entropy = nn.functional.cross_entropy(z[at], ids[1:][at], reduction="sum")
        soft = nn.functional.kl_div(
            (z[at] / 2).log_softmax(-1), (v[at] / 2).softmax(-1).detach(), reduction="sum"
        )
        total = total + 0.3 * cross_entropy + 0.7 * 4 * soft
        count += int(at.sum())
    (total / count).backward()
    plain = {f"student.{name}": p.grad for name, p in student.named_parameters()}
    assert scene.distance(ours, plain) < 1e-5


def test_packed_rows_do_not_leak(scene: SimpleNamespace) -> None:
    """What stands in one document leaves the losses of another bit for bit alone.

    To see it fail: in data/loader.py, `positions[row, start:stop] = np.arange(len(example))` →
    `positions[row, start:stop] = np.arange(start, stop)`.
    """
    first, second, changed = scene.make_documents([10, 12]) + scene.make_documents([10], seed=9)
    (batch,), (other,) = scene.in_rows([[first, second]]), scene.in_rows([[changed, second]])
    inside = batch.documents == 1
    module = DistillationModule(scene.make_model(), WeightedSum((Task(),)), scene.VOCABULARY)
    losses = [module(only(each, inside), Signals(), (1.0,)).total.item() for each in (batch, other)]
    assert losses[0] == losses[1]


def only(batch: Batch, where: torch.Tensor) -> Batch:
    return replace(batch, targets=batch.targets.where(where, torch.tensor(IGNORED)))


TERMS = [
    Task(weight=0.4),
    *(Output(weight=0.5, name=name, divergence=name, temperature=1.5) for name in DIVERGENCES),
]


@pytest.mark.parametrize("left_out", TERMS, ids=lambda term: term.label)
def test_every_term_changes_the_gradient(scene: SimpleNamespace, left_out: Any) -> None:
    """To see it fail: in training/module.py, `for objective, weight in pairs if weight != 0]` →
    `for objective, weight in pairs if weight == 0.4]`.
    """
    group = scene.in_rows(alone(scene.make_documents(LENGTHS[:3])))
    with_all = scene.step_gradient(group, objectives=TERMS)
    without = scene.step_gradient(group, objectives=[t for t in TERMS if t is not left_out])
    assert scene.distance(without, with_all) > 1e-3


def test_the_total_is_the_weighted_sum_of_the_terms(scene: SimpleNamespace) -> None:
    (batch,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    teacher = LocalTeacher(scene.make_model(4, 1))
    module = DistillationModule(scene.make_model(), WeightedSum(tuple(TERMS)), scene.VOCABULARY)
    weights = tuple(0.1 + 0.2 * number for number in range(len(TERMS)))
    losses = module(batch, teacher.signals(batch, module.wanted(weights)), weights)
    assert list(losses.terms) == [term.label for term in TERMS]
    expected = sum(w * losses.terms[t.label] for w, t in zip(weights, TERMS, strict=True))
    torch.testing.assert_close(losses.total, expected, rtol=1e-5, atol=0)


def test_a_term_of_weight_zero_is_not_computed(scene: SimpleNamespace) -> None:
    (batch,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    module = DistillationModule(scene.make_model(), WeightedSum(scene.BOTH), scene.VOCABULARY)
    assert module.wanted((1.0, 0.0)) == Signal.NONE
    losses = module(batch, Signals(), (1.0, 0.0))
    assert list(losses.terms) == ["task"] and losses.observed == {}


def test_distillation_alone_reads_no_labels(scene: SimpleNamespace) -> None:
    """Where there is a target matters; which token it is does not."""
    (batch,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    noise = torch.randint(scene.VOCABULARY, batch.targets.shape)
    other = replace(batch, targets=noise.where(batch.is_target, torch.tensor(IGNORED)))
    objectives = [Output(weight=1.0)]
    one, two = (scene.step_gradient([b], objectives=objectives) for b in (batch, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_observed_is_kl_at_temperature_1_and_agreement(scene: SimpleNamespace) -> None:
    (batch,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    student, teacher = scene.make_model(), scene.make_model(4, 1)
    module = DistillationModule(
        student, WeightedSum((Output(temperature=3.0),)), scene.VOCABULARY, packed=False
    )
    told = LocalTeacher(teacher, packed=False).signals(batch, module.wanted((1.0,)))
    losses = module(batch, told, (1.0,))
    mask = (batch.documents >= 0).long()
    z, v = (m(batch.input_ids, attention_mask=mask).logits for m in (student, teacher))
    q, p = z[batch.is_target].log_softmax(-1), v[batch.is_target].log_softmax(-1)
    torch.testing.assert_close(losses.observed["kl"], (p.exp() * (p - q)).sum(), rtol=1e-4, atol=0)
    agreed = (p.argmax(-1) == q.argmax(-1)).sum()
    assert losses.observed["agreement"].item() == agreed.item()
    assert 0 < agreed < len(p)


def test_only_the_total_carries_a_gradient(scene: SimpleNamespace) -> None:
    (batch,) = scene.in_rows(alone(scene.make_documents(LENGTHS)))
    module = DistillationModule(scene.make_model(), WeightedSum(scene.BOTH), scene.VOCABULARY)
    weights = (0.3, 0.7)
    told = LocalTeacher(scene.make_model(4, 1)).signals(batch, module.wanted(weights))
    losses = module(batch, told, weights)
    assert losses.total.requires_grad
    assert not any(v.requires_grad for v in (*losses.terms.values(), *losses.observed.values()))
