"""Output distillation where the teacher knows a part of the vocabulary only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives.output import Output, align
from nexus.signals import Scores, Signal, Support

N, V = 6, 11
TRUNCATABLE = {
    "forward_kl",
    "reverse_kl",
    "symmetric_kl",
    "jsd",
    "skew_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "alpha_beta",
    "total_variation",
}


def targets(n: int = N, v: int = V) -> Targets:
    return Targets(torch.randint(v, (n,)), torch.zeros(n).long(), torch.zeros(n).long())


def logits(n: int = N, v: int = V, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Of a teacher and a student, in float64."""
    teacher, student = scale * torch.randn(2, n, v, dtype=torch.float64)
    return teacher, student


def loss(output: Output, teacher: Tensor | Support, student: Tensor, at: Targets) -> Tensor:
    told = teacher if isinstance(teacher, Support) else Scores(teacher)
    return output.per_token(Scores(student), told, at)


def gradient(output: Output, teacher: Tensor | Support, student: Tensor, at: Targets) -> Tensor:
    student = student.clone().requires_grad_()
    loss(output, teacher, student, at).sum().backward()
    assert student.grad is not None
    return student.grad


def top(teacher: Tensor, k: int) -> Support:
    """The k most likely ids with everything else as a bucket, as a store would hold them."""
    log_p = teacher.log_softmax(-1)
    kept, ids = log_p.topk(k, dim=-1)
    rest = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return Support(kept, ids, rest)


class TestTail:
    """k ids and a bucket of everything else."""

    def test_everything_is_the_whole(self, row: Any) -> None:
        if row.divergence not in TRUNCATABLE:
            with pytest.raises(UsageError, match="needs the whole vocabulary"):
                loss(Output(**row.kind), top(logits()[0], V), logits()[1], targets())
            return
        teacher, student = logits()
        at = targets()
        output = Output(**row.kind)
        if row.parameters.get("a", 1) + row.parameters.get("b", 1) <= 0:
            # An empty bucket is a class like any other here, and no class counts less than nothing.
            more = loss(output, top(teacher, V), student, at) - loss(output, teacher, student, at)
            assert more.isfinite().all() and more.min() > -1e-5
            return
        torch.testing.assert_close(
            loss(output, top(teacher, V), student, at),
            loss(output, teacher, student, at),
            rtol=1e-5,
            atol=1e-6,
        )
        torch.testing.assert_close(
            gradient(output, top(teacher, V), student, at),
            gradient(output, teacher, student, at),
            rtol=1e-4,
            atol=1e-6,
        )

    @pytest.mark.parametrize(
        "name", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "total_variation"]
    )
    def test_bounds_the_whole_from_below_and_grows_with_k(self, name: str) -> None:
        teacher, student = logits(50)
        at = targets(50)
        output = Output(divergence=name)
        values = [loss(output, top(teacher, k), student, at) for k in range(1, V + 1)]
        for fewer, more in zip(values[:-1], values[1:], strict=True):
            assert (fewer <= more + 1e-6).all()
        assert (values[2] < 0.9 * values[-1]).any()

    @pytest.mark.parametrize("k", [1, 4, V - 1])
    def test_what_the_bucket_misses_is_the_divergence_within_it(self, k: int) -> None:
        """To see it fail: in objectives/output.py, `if teacher.rest is not None:` → `if False:`."""
        teacher, student = logits()
        support = top(teacher, k)
        outside = torch.ones(N, V, dtype=torch.bool).scatter(-1, support.ids, False)
        p, q = (x.softmax(-1)[outside].reshape(N, V - k) for x in (teacher, student))
        mass = p.sum(-1)
        p, q = p / mass.unsqueeze(-1), q / q.sum(-1, keepdim=True)
        within = mass * (p * (p / q).log()).sum(-1)
        torch.testing.assert_close(
            loss(Output(), support, student, targets()) + within,
            loss(Output(), teacher, student, targets()),
            rtol=1e-5,
            atol=1e-6,
        )

    def test_the_gradient_is_that_of_the_classes(self) -> None:
        teacher, student = logits()
        support = top(teacher, 4)
        p, q = teacher.softmax(-1), student.softmax(-1)
        inside = torch.zeros(N, V, dtype=torch.bool).scatter(-1, support.ids, True)
        rest_p, rest_q = ((x * ~inside).sum(-1, keepdim=True) for x in (p, q))
        # Inside q - p; outside the bucket's q - p, shared out as the student does.
        expected = torch.where(inside, q - p, (rest_q - rest_p) * q / rest_q)
        found = gradient(Output(), support, student, targets())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    def test_equal_distributions_have_no_value_and_no_gradient(self, row: Any) -> None:
        teacher, _ = logits()
        teacher = teacher.float()
        output = Output(**row.kind)
        if row.divergence not in TRUNCATABLE:
            with pytest.raises(UsageError, match="needs the whole vocabulary"):
                loss(output, top(teacher, 4), teacher, targets())
            return
        assert loss(output, top(teacher, 4), teacher, targets()).abs().max() < 1e-6
        if row.divergence != "total_variation":  # the sign of rounding
            assert gradient(output, top(teacher, 4), teacher, targets()).abs().max() < 2e-5

    @pytest.mark.parametrize("temperature", [0.5, 2.0])
    def test_cannot_be_softened(self, temperature: float) -> None:
        teacher, student = logits()
        with pytest.raises(UsageError, match=rf"temperature {temperature}.*[Uu]se temperature 1"):
            loss(Output(temperature=temperature), top(teacher, 4), student, targets())

    @pytest.mark.parametrize("name", ["logit_mse", "dkd"])
    def test_is_refused_by_what_needs_the_whole_vocabulary(self, name: str) -> None:
        teacher, student = logits()
        output = Output(divergence=name)
        assert Signal.FULL_VOCABULARY in output.needs
        with pytest.raises(UsageError, match=f"'{name}' needs the whole vocabulary"):
            loss(output, top(teacher, 4), student, targets())

    def test_what_takes_a_part_says_so(self) -> None:
        for name in TRUNCATABLE:
            assert Output(divergence=name).needs == Signal.DISTRIBUTION


class TestSampledIds:
    """Ids drawn from the teacher, with counts as their probabilities (arXiv:2503.16870)."""

    def drawn(self, teacher: Tensor, draws: int, times: int) -> Support:
        """One row of `teacher`, drawn from anew in each row of the result."""
        ids = torch.multinomial(teacher.softmax(-1).expand(times, -1), draws, replacement=True)
        counts = torch.zeros(times, V).scatter_add(1, ids, torch.ones(times, draws))
        kept, ids = (counts / draws).sort(dim=-1, descending=True)  # filled up with -inf
        return Support(kept.log(), ids)

    def test_cross_entropy_and_gradient_are_unbiased(self) -> None:
        teacher, student = logits(1, scale=1.0)
        times, draws = 4000, 20
        support = self.drawn(teacher, draws, times)
        many = student.expand(times, -1).clone()
        entropy_of_counts = -(support.log_probs.exp() * support.log_probs.clamp_min(-1e3)).sum(-1)
        cross = loss(Output(), support, many, targets(times)) + entropy_of_counts
        exact = -(teacher.softmax(-1) * student.log_softmax(-1)).sum()
        assert (cross.mean() - exact).abs() < 4 * cross.std() / math.sqrt(times)

        found = gradient(Output(), support, many, targets(times))
        expected = student.softmax(-1) - teacher.softmax(-1)
        error = (found.mean(0) - expected[0]).abs()
        assert (error < 4 * found.std(0) / math.sqrt(times) + 1e-7).all()
        assert expected.abs().max() > 20 * error.max()

    def test_the_value_itself_is_too_high_by_the_entropy_that_counts_lack(self) -> None:
        teacher, student = logits(1, scale=1.0)
        times, draws = 4000, 100
        support = self.drawn(teacher, draws, times)
        value = loss(Output(), support, student.expand(times, -1).clone(), targets(times))
        bias = value.mean() - loss(Output(), teacher, student, targets(1)).item()
        assert bias.item() == pytest.approx((V - 1) / (2 * draws), rel=0.25)

    @pytest.mark.parametrize("name", sorted(TRUNCATABLE - {"forward_kl"}))
    def test_other_divergences_are_refused(self, name: str) -> None:
        teacher, student = logits()
        support = replace(top(teacher, 4), rest=None)
        with pytest.raises(UsageError, match="forward_kl only"):
            loss(Output(divergence=name), support, student, targets())


def test_aligning_gives_distributions() -> None:
    teacher, student = logits()
    for told in (Scores(teacher), top(teacher, 4)):
        for log_probs in align(Scores(student), told, 1.0, sampled=False):
            torch.testing.assert_close(
                log_probs.double().exp().sum(-1), torch.ones(N).double(), rtol=1e-6, atol=0
            )
