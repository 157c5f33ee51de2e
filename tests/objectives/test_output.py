from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives.output import Output, align
from nexus.objectives.task import Task
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


def loss(output: Output | Task, teacher: Tensor | Support, student: Tensor, at: Targets) -> Tensor:
    told = teacher if isinstance(teacher, Support) else Scores(teacher)
    return output.per_token(Scores(student), told, at)


def gradient(
    output: Output | Task, teacher: Tensor | Support, student: Tensor, at: Targets
) -> Tensor:
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


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_softens_both_and_multiplies_by_its_square(self, row: Any, temperature: float) -> None:
        teacher, student = logits()
        at = targets()
        p, q = ((x / temperature).softmax(-1).numpy() for x in (teacher, student))
        expected = row.value(p, q, at.tokens.numpy(), q)
        kind = {**row.kind, "temperature": temperature}
        with_square = loss(Output(**kind), teacher, student, at)
        without = loss(Output(**kind, square_temperature=False), teacher, student, at)
        np.testing.assert_allclose(without.numpy(), expected, rtol=1e-8)
        np.testing.assert_allclose(with_square.numpy(), temperature**2 * expected, rtol=1e-8)

    def test_has_its_closed_form_at_infinity(self, row: Any) -> None:
        teacher, student = logits()
        at = targets()
        expected = torch.from_numpy(row.limit((student - teacher).numpy(), at.tokens.numpy()))
        errors = []
        for temperature in (1e3, 1e4):
            output = Output(**row.kind, temperature=temperature)
            value = loss(output, teacher, student, at) * temperature ** (row.power - 2)
            errors.append((value / expected - 1).abs().max())
        assert errors[0] < 0.01
        assert errors[1] < 0.2 * errors[0] or errors[1] < 1e-8

    def test_gradient_of_forward_kl_is_t_times_the_difference(self) -> None:
        teacher, student = logits()
        for temperature in (0.5, 3.0, 1e4):
            expected = temperature * (
                (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
            )
            output = Output(temperature=temperature)
            torch.testing.assert_close(gradient(output, teacher, student, targets()), expected)
        gap = student - teacher
        limit = (gap - gap.mean(-1, keepdim=True)) / V
        torch.testing.assert_close(expected, limit, rtol=0.01, atol=1e-4)

    def test_the_gradient_keeps_its_size_only_with_the_square(self) -> None:
        teacher, student = logits(scale=0.1)
        sizes = {
            square: [
                gradient(
                    Output(temperature=t, square_temperature=square), teacher, student, targets()
                ).norm()
                for t in (2.0, 20.0)
            ]
            for square in (True, False)
        }
        assert sizes[True][1] / sizes[True][0] == pytest.approx(1, abs=0.05)
        assert sizes[False][1] / sizes[False][0] == pytest.approx(0.01, rel=0.05)

    def test_mean_squared_error_does_not_depend_on_it(self) -> None:
        teacher, student = logits()
        values = [
            loss(Output(divergence="logit_mse", temperature=t), teacher, student, targets())
            for t in (0.5, 1.0, 20.0)
        ]
        torch.testing.assert_close(values[0], values[1])
        torch.testing.assert_close(values[1], values[2])


class TestPrecision:
    """In fp32, at what real models and their failures produce."""

    @pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
    def test_opposite_certainties(self, row: Any, temperature: float) -> None:
        if row.parameters.get("b", 0) < 0:
            pytest.skip("a negative power of a probability of zero is infinite")
        teacher = torch.tensor([[1e4, -1e4]])
        student = teacher.flip(-1)
        at = targets(1, 1)
        gap = 2e4 / temperature
        gap_of_certain = {"forward_kl": gap, "reverse_kl": gap, "symmetric_kl": gap}
        a, b = row.parameters.get("a", 0.5), row.parameters.get("b", 0.5)
        beta = row.parameters.get("beta", 0.5)
        skew = row.parameters.get("skew", 0.1)
        expected = {
            **gap_of_certain,
            "jsd": gap
            if beta in (0, 1)
            else (-beta * math.log(beta) - (1 - beta) * math.log(1 - beta))
            / (beta * (1 - beta) if row.parameters.get("normalize") else 1),
            "skew_kl": -math.log(skew) if skew else gap,
            "skew_reverse_kl": -math.log(skew) if skew else gap,
            "adaptive_kl": gap,
            "alpha_beta": gap**2 if a == b == 0 else gap / (a + b) if a * b == 0 else 1 / (a * b),
            "total_variation": 1.0,
            "logit_mse": gap**2,
            "dkd": gap * row.parameters.get("target_weight", 1.0),
        }[row.divergence]
        output = Output(**row.kind, temperature=temperature)
        value = loss(output, teacher, student, at)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(temperature**2 * expected, rel=0.005)
        assert gradient(output, teacher, student, at).isfinite().all()

    @pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
    def test_certainty_is_unlearned_at_full_speed(self, temperature: float) -> None:
        teacher = torch.tensor([[1e4, -1e4]])
        found = gradient(Output(temperature=temperature), teacher, teacher.flip(-1), targets(1, 1))
        expected = temperature * torch.tensor([[-1.0, 1.0]])
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("offset", [-1e4, 25.0, 1e4])
    @pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
    def test_offsets_cost_no_digits(self, row: Any, offset: float, temperature: float) -> None:
        # Multiples of 1/256 below 8 are still exact in fp32 when 1e4 is added.
        teacher, student = (
            ((3 * x * 256).round() / 256).clamp(-8, 8) for x in torch.randn(2, 16, 30).double()
        )
        at = targets(16, 30)
        output = Output(**row.kind, temperature=temperature)
        if row.parameters.get("b", 0) < 0 and temperature < 1:
            pytest.skip("a negative power of a probability of zero is infinite")
        args = (teacher.float() + offset, student.float() - offset, at)
        torch.testing.assert_close(
            loss(output, *args).double(), loss(output, teacher, student, at), rtol=1e-3, atol=1e-5
        )
        exact = gradient(output, teacher, student, at)
        error = (gradient(output, *args).double() - exact).norm()
        # Bounded divergences of distributions that share nothing have next to no gradient.
        assert error < 0.005 * exact.norm() + 1e-5 * temperature

    @given(
        st.floats(0.05, 20),
        st.floats(0.1, 10),
        st.sampled_from([-1e4, 0.0, 30.0, 1e4]),
        st.floats(0, 0.01),
        st.sampled_from(["forward_kl", "reverse_kl", "jsd", "skew_kl"]),
        st.sampled_from([3, 512, 50_000]),
    )
    def test_kl_is_not_negative(
        self, temperature: float, scale: float, offset: float, gap: float, name: str, v: int
    ) -> None:
        teacher = scale * torch.randn(2, v) + offset
        student = teacher + gap * torch.randn(2, v)
        output = Output(divergence=name, temperature=temperature, square_temperature=False)
        value = loss(output, teacher, student, targets(2, v))
        assert value.isfinite().all()
        assert value.min() >= -1e-6

    def test_impossible_tokens_give_numbers(self, row: Any) -> None:
        if row.divergence in ("alpha_beta", "logit_mse"):
            pytest.skip("infinite by definition")
        teacher, student = logits()
        at = targets()._replace(tokens=torch.zeros(N).long())
        teacher[:, -3:] = -torch.inf
        for mine in (student, student.masked_fill(teacher.isinf(), -torch.inf)):
            assert loss(Output(**row.kind), teacher, mine, at).isfinite().all()
            assert gradient(Output(**row.kind), teacher, mine, at).isfinite().all()


class TestAlpha:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_mixing_at_temperature_1_is_cross_entropy_against_mixed_labels(
        self, alpha: float
    ) -> None:
        teacher, student = logits()
        at = targets()
        hard = torch.nn.functional.one_hot(at.tokens, V).double()
        soft = alpha * hard + (1 - alpha) * teacher.softmax(-1)
        mixed = -(soft * student.log_softmax(-1)).sum(-1)
        entropy = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1)
        total = alpha * loss(Task(), teacher, student, at) + (1 - alpha) * (
            loss(Output(), teacher, student, at) + entropy
        )
        torch.testing.assert_close(total, mixed)
        found = alpha * gradient(Task(), teacher, student, at) + (1 - alpha) * gradient(
            Output(), teacher, student, at
        )
        torch.testing.assert_close(found, student.softmax(-1) - soft)

    def test_a_certain_teacher_is_the_task(self) -> None:
        _, student = logits()
        at = targets()
        teacher = torch.full((N, V), -torch.inf, dtype=torch.float64)
        teacher[torch.arange(N), at.tokens] = 0.0
        torch.testing.assert_close(
            loss(Output(), teacher, student, at), loss(Task(), teacher, student, at)
        )


class TestTail:
    """k ids and a bucket of everything else."""

    def test_everything_is_the_whole(self, row: Any) -> None:
        if row.divergence not in TRUNCATABLE:
            pytest.skip("needs the whole vocabulary")
        if row.parameters.get("a", 1) + row.parameters.get("b", 1) <= 0:
            pytest.skip("counts an empty bucket like any other class")
        teacher, student = logits()
        at = targets()
        output = Output(**row.kind)
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
        if row.divergence not in TRUNCATABLE:
            pytest.skip("needs the whole vocabulary")
        teacher, _ = logits()
        teacher = teacher.float()
        output = Output(**row.kind)
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


class TestMistakes:
    @pytest.mark.parametrize("temperature", [0, -1.0, "nan", "inf"])
    def test_temperature_that_is_not_positive(self, temperature: Any) -> None:
        with pytest.raises(UsageError, match=r"^'temperature' is .*but it should be"):
            Output.parse({"temperature": temperature})

    def test_parameter_of_another_divergence(self) -> None:
        with pytest.raises(
            UsageError, match="'beta' means nothing to divergence 'forward_kl'.*jsd"
        ):
            Output.parse({"beta": 0.5})

    def test_unknown_divergence(self) -> None:
        with pytest.raises(UsageError) as caught:
            Output.parse({"divergence": "revers_kl"})
        message = str(caught.value)
        assert "'divergence' is 'revers_kl'" in message
        assert "did you mean 'reverse_kl'?" in message
        assert "total_variation" in message

    @pytest.mark.parametrize(
        "values",
        [
            {"divergence": "jsd", "beta": 1.1},
            {"divergence": "jsd", "beta": -0.1},
            {"divergence": "skew_kl", "skew": 1.0},
            {"divergence": "adaptive_kl", "head_mass": 0.0},
            {"divergence": "symmetric_kl", "reverse_share": 2.0},
            {"divergence": "dkd", "rest_weight": -1.0},
        ],
    )
    def test_parameters_out_of_range(self, values: dict[str, Any]) -> None:
        key, value = list(values.items())[-1]
        with pytest.raises(UsageError, match=f"'{key}' is {value}, but it should be"):
            Output.parse(values)
