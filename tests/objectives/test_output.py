from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Scores

N, V = 6, 11


def targets(n: int = N, v: int = V) -> Targets:
    return Targets(torch.randint(v, (n,)), torch.zeros(n).long(), torch.zeros(n).long())


def logits(n: int = N, v: int = V, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Of a teacher and a student, in float64."""
    teacher, student = scale * torch.randn(2, n, v, dtype=torch.float64)
    return teacher, student


def loss(output: Output | Task, teacher: Tensor, student: Tensor, at: Targets) -> Tensor:
    return output.per_token(Scores(student), Scores(teacher), at)


def gradient(output: Output | Task, teacher: Tensor, student: Tensor, at: Targets) -> Tensor:
    student = student.clone().requires_grad_()
    loss(output, teacher, student, at).sum().backward()
    assert student.grad is not None
    return student.grad


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_softens_both_and_multiplies_by_its_square(self, row: Any, temperature: float) -> None:
        """To see it fail: in objectives/output.py, `value * self.temperature**2 if` → `value *
        self.temperature**4 if`.
        """
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
        """To see it fail: objectives/output.py, `value * self.temperature**2 if` → `value if`."""
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
        teacher = torch.tensor([[1e4, -1e4]])
        student = teacher.flip(-1)
        at = targets(1, 1)
        if row.parameters.get("b", 0) < 0:  # a negative power of a probability of zero
            value = loss(Output(**row.kind, temperature=temperature), teacher, student, at)
            assert value.isposinf().all()
            return
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
        args = (teacher.float() + offset, student.float() - offset, at)
        if row.parameters.get("b", 0) < 0 and temperature < 1:  # beyond fp32, and said to be
            found, exact = loss(output, *args), loss(output, teacher, student, at)
            assert torch.equal(found.isposinf(), exact > 1e36) and not found.isnan().any()
            finite = found.isfinite()
            torch.testing.assert_close(found[finite].double(), exact[finite], rtol=1e-3, atol=1e-5)
            return
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
        """To see it fail: in objectives/output.py, `FLOOR = -1.0e6` → `FLOOR = -float("inf")`."""
        teacher, student = logits()
        at = targets()._replace(tokens=torch.zeros(N).long())
        teacher[:, -3:] = -torch.inf
        for mine in (student, student.masked_fill(teacher.isinf(), -torch.inf)):
            value = loss(Output(**row.kind), teacher, mine, at)
            if row.parameters.get("a", 0) < 0 and mine.isfinite().all():
                assert value.isposinf().all()  # a negative power of the teacher's zero
                continue
            assert value.isfinite().all()
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
