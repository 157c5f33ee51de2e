"""Several teachers are averaged as the formulas say, at any temperature, by the kernel itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nexus.batch import Batch
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.kernels.chunked_head import chunked_head
from nexus.kernels.sweeps import Losses
from nexus.objectives.output import Output
from nexus.signals import Head, Headed, Mean, Signal
from nexus.teachers.ensemble import Ensemble
from nexus.teachers.local import LocalTeacher

WANTED = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY
VOCABULARY = 19


def model(seed: int, **changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 8, "n_layer": 1, "n_head": 2}
    made = GPT2LMHeadModel(GPT2Config(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4)  # so that the teachers really differ
    return made


@pytest.fixture
def batch() -> Batch:
    return from_padded(torch.randint(VOCABULARY, (2, 7)))


def loss(teacher: Any, batch: Batch, temperature: float, divergence: str) -> torch.Tensor:
    torch.manual_seed(5)
    count = int(batch.target_count)
    student = Headed(torch.randn(count, 4), Head(torch.randn(VOCABULARY, 4)))
    output = Output(temperature=temperature, divergence=divergence, square_temperature=False)
    told = teacher.signals(batch, WANTED).distribution
    losses = Losses((output.per_token,), temperatures=(temperature,))
    result = chunked_head(student, told, batch.at_targets(), losses, torch.ones(1))
    return result.per_token[0]


def reference(
    models: list[GPT2LMHeadModel], shares: list[float], mean: Mean, batch: Batch, t: float
) -> torch.Tensor:
    """Forward KL to the average, in float64, from whole logits."""
    torch.manual_seed(5)
    hidden, weight = torch.randn(int(batch.target_count), 4), torch.randn(VOCABULARY, 4)
    log_q = torch.log_softmax((hidden @ weight.t()).double() / t, -1)
    logits = [m(batch.input_ids).logits[batch.is_target].double() for m in models]
    if mean == "logit":
        average = sum(w * z for w, z in zip(shares, logits, strict=True))
        p = torch.softmax(average / t, -1)  # type: ignore[operator, arg-type]
    else:
        softened = [w * torch.softmax(z / t, -1) for w, z in zip(shares, logits, strict=True)]
        p = torch.stack(softened).sum(0)
    return (p * (p.log() - log_q)).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("mean", ["probability", "logit"])
def test_the_average_is_what_it_says(batch: Batch, mean: Mean, temperature: float) -> None:
    models = [model(seed) for seed in (1, 2, 3)]
    shares = [0.5, 0.3, 0.2]
    members = [LocalTeacher(m) for m in models]
    got = loss(Ensemble(members, mean, [5.0, 3.0, 2.0]), batch, temperature, "forward_kl")
    expected = reference(models, shares, mean, batch, temperature)
    torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mean", ["probability", "logit"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "total_variation"])
def test_copies_of_one_teacher_are_that_teacher(batch: Batch, mean: Mean, divergence: str) -> None:
    one = model(1)
    copies = [LocalTeacher(copy.deepcopy(one)) for _ in range(3)]
    many = loss(Ensemble(copies, mean), batch, 2.0, divergence)
    alone = loss(LocalTeacher(one), batch, 2.0, divergence)
    torch.testing.assert_close(many, alone, rtol=1e-5, atol=1e-5)


def test_averaging_losses_is_the_loss_to_the_average_up_to_a_constant(batch: Batch) -> None:
    """Σ w KL(p_k ‖ q) - KL(p̄ ‖ q) does not depend on q."""
    members = [LocalTeacher(model(seed)) for seed in (1, 2)]
    gaps = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        count = int(batch.target_count)
        student = Headed(torch.randn(count, 4), Head(torch.randn(VOCABULARY, 4)))

        def kl(teacher: Any, student: Headed = student) -> torch.Tensor:
            told = teacher.signals(batch, WANTED).distribution
            losses = Losses((Output().per_token,))
            at = batch.at_targets()
            return chunked_head(student, told, at, losses, torch.ones(1)).per_token[0]

        gaps.append((kl(members[0]) + kl(members[1])) / 2 - kl(Ensemble(members)))
    torch.testing.assert_close(gaps[0], gaps[1], rtol=1e-4, atol=1e-5)


def test_the_order_of_teachers_does_not_matter(batch: Batch) -> None:
    members = [LocalTeacher(model(seed)) for seed in (1, 2)]
    forwards = loss(Ensemble(members, shares=[1.0, 3.0]), batch, 1.0, "forward_kl")
    backwards = loss(Ensemble(members[::-1], shares=[3.0, 1.0]), batch, 1.0, "forward_kl")
    torch.testing.assert_close(forwards, backwards)


def test_teachers_that_cannot_be_averaged_are_refused(batch: Batch) -> None:
    member = LocalTeacher(model(1))
    with pytest.raises(UsageError, match="empty"):
        Ensemble([])
    with pytest.raises(UsageError, match="19 and 23"):
        Ensemble([member, LocalTeacher(model(1, vocab_size=23))])
    for shares in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]):
        with pytest.raises(UsageError, match="positive"):
            Ensemble([member, member], shares=shares)
    with pytest.raises(UsageError, match="HIDDEN"):
        Ensemble([member]).signals(batch, Signal.HIDDEN)


def test_nothing_wanted_runs_nothing(batch: Batch) -> None:
    assert Ensemble([LocalTeacher(model(1))]).signals(batch, Signal.NONE).distribution is None
