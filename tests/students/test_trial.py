"""A trial that waits on disk ends in the very weights of one that never did, nearer its teacher."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.pruning.depth import keep_layers
from nexus.pruning.families import family_of
from nexus.pruning.importance import measure
from nexus.pruning.prune import carve
from nexus.pruning.sizes import Sizes
from nexus.students.trial import Carved, Trial, divergence, spoken

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    model: PreTrainedModel = TINY["make_model"](layers=3, seed=1)
    return model


def text(seed: int) -> list[Batch]:
    torch.manual_seed(seed)
    return [from_padded(torch.randint(200, (2, 24)))]


def steps(number: int) -> Sequence[Batch]:
    return text(number % 2)


def test_resting_on_disk_changes_nothing(teacher: PreTrainedModel, tmp_path: Path) -> None:
    scores = measure(teacher, text(9))
    whole = Sizes.of(teacher.config, family_of(teacher))
    sizes = replace(whole, neurons=32, layers=2)

    def carved(sizes: Sizes) -> Carved:
        small, kept = carve(teacher, text(9), scores, sizes, None, dtype=torch.float32)
        return small, kept.layers

    def never(sizes: Sizes) -> Carved:
        raise ValueError("it was on disk")

    straight = Trial(teacher, sizes, tmp_path / "straight")
    straight.resume(0, carved)
    held = text(5)
    told = spoken(teacher, held)
    before = divergence(straight.model, teacher, held, told)
    straight.train(steps, 6, 2e-3)
    resting = Trial(teacher, sizes, tmp_path / "resting")
    resting.resume(0, carved)
    resting.train(steps, 3, 2e-3)
    resting.keep()
    again = Trial(teacher, sizes, tmp_path / "resting")
    again.resume(3, never)
    again.train(steps, 6, 2e-3)
    for one, other in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    held = text(0)
    told = spoken(teacher, held)
    assert divergence(straight.model, teacher, held, told) < before


def test_a_teacher_left_in_training_is_heard_without_dropout(tmp_path: Path) -> None:
    """To see it fail: in trial.spoken or Trial.train, leave out `evaluated`."""
    model: PreTrainedModel = TINY["make_model"](layers=3, seed=1)
    sizes = Sizes.of(model.config, family_of(model))
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:  # type: ignore[union-attr]
        layer.self_attn.attention_dropout = 0.5  # type: ignore[union-attr]
    ends = []
    for training in (False, True):
        model.train(training)
        trial = Trial(model, sizes, tmp_path / str(training))
        trial.resume(0, lambda _: (keep_layers(model, (0, 2)).eval(), (0, 2)))
        trial.train(steps, 2, 1e-3)
        ends.append([*spoken(model, text(5)), trial.model.lm_head.weight.detach()])
        assert model.training == training
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_the_divergence_is_kl_as_defined(teacher: PreTrainedModel) -> None:
    other: PreTrainedModel = TINY["make_model"](layers=2, seed=2)
    held = text(3)
    batch = held[0]
    log_p, log_q = (
        model(input_ids=batch.input_ids).logits[batch.is_target].detach().log_softmax(-1)
        for model in (teacher, other)
    )
    expected = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    told = spoken(teacher, held)
    assert divergence(other, teacher, held, told) == pytest.approx(expected, rel=1e-4)
    assert divergence(teacher, teacher, held, told) == pytest.approx(0, abs=1e-6)
