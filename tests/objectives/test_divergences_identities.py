"""What each divergence is known to be: special cases, bounds, limits and relations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nexus.objectives import divergences
from nexus.objectives.divergences import DIVERGENCES

N, V = 6, 11


def logits(scale: float = 2.0, n: int = N, v: int = V) -> tuple[Tensor, Tensor, Tensor]:
    """Of a teacher and a student, in float64, with a target in each row."""
    return (
        scale * torch.randn(n, v, dtype=torch.float64),
        scale * torch.randn(n, v, dtype=torch.float64),
        torch.randint(v, (n,)),
    )


def pair(scale: float = 2.0) -> tuple[Tensor, Tensor]:
    teacher, student, _ = logits(scale)
    return teacher.log_softmax(-1), student.log_softmax(-1)


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


class TestKl:
    def test_forward_is_cross_entropy_less_entropy_and_its_gradient_is_q_less_p(self) -> None:
        log_p, log_q = pair()
        cross = -(log_p.exp() * log_q).sum(-1)
        torch.testing.assert_close(divergences.forward_kl(log_p, log_q), cross - entropy(log_p))
        student = log_q.clone().requires_grad_()
        divergences.forward_kl(log_p, student.log_softmax(-1)).sum().backward()
        torch.testing.assert_close(student.grad, log_q.exp() - log_p.exp())

    def test_reverse_gradient(self) -> None:
        log_p, log_q = pair()
        student = log_q.clone().requires_grad_()
        value = divergences.reverse_kl(log_p, student.log_softmax(-1))
        value.sum().backward()
        expected = log_q.exp() * (log_q - log_p - value.detach().unsqueeze(-1))
        torch.testing.assert_close(student.grad, expected)

    def test_reverse_is_forward_the_other_way(self) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.reverse_kl(log_p, log_q), divergences.forward_kl(log_q, log_p)
        )

    def test_jeffreys_is_symmetric(self) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.symmetric_kl(log_p, log_q), divergences.symmetric_kl(log_q, log_p)
        )

    @pytest.mark.parametrize("share, name", [(0.0, "forward_kl"), (1.0, "reverse_kl")])
    def test_symmetric_ends(self, share: float, name: str) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.symmetric_kl(log_p, log_q, reverse_share=share),
            DIVERGENCES[name].function(log_p, log_q),
        )


BETAS = [1e-4, 0.1, 0.3, 0.5, 0.9, 1 - 1e-4]


class TestJsd:
    @pytest.mark.parametrize("beta", BETAS)
    @pytest.mark.parametrize("normalize", [False, True])
    def test_swapping_the_arguments_is_swapping_the_shares(
        self, beta: float, normalize: bool
    ) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.jsd(log_p, log_q, beta=beta, normalize=normalize),
            divergences.jsd(log_q, log_p, beta=1 - beta, normalize=normalize),
        )

    @pytest.mark.parametrize("beta", BETAS)
    def test_is_entropy_gained_by_mixing_and_at_most_that_of_the_coin(self, beta: float) -> None:
        log_p, log_q = pair(6.0)
        log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
        value = divergences.jsd(log_p, log_q, beta=beta)
        gained = entropy(log_m) - beta * entropy(log_p) - (1 - beta) * entropy(log_q)
        torch.testing.assert_close(value, gained, rtol=1e-6, atol=1e-12)
        coin = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        assert value.max() <= coin + 1e-12
        assert value.max() <= math.log(2)

    @pytest.mark.parametrize("beta", BETAS)
    def test_the_bound_is_reached_by_distributions_that_share_nothing(self, beta: float) -> None:
        apart = torch.tensor([[0.0, -1e4]]).log_softmax(-1)
        coin = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        value = divergences.jsd(apart, apart.flip(-1), beta=beta)
        assert value.item() == pytest.approx(coin, rel=1e-5)

    @pytest.mark.parametrize("beta", BETAS)
    def test_is_a_mixture_of_the_skewed(self, beta: float) -> None:
        log_p, log_q = pair()
        mixture = beta * divergences.skew_kl(log_p, log_q, skew=beta) + (
            1 - beta
        ) * divergences.skew_reverse_kl(log_p, log_q, skew=1 - beta)
        torch.testing.assert_close(divergences.jsd(log_p, log_q, beta=beta), mixture)

    @pytest.mark.parametrize("end, near", [(0.0, 1e-5), (1.0, 1 - 1e-5)])
    def test_normalized_is_continuous_at_both_ends(self, end: float, near: float) -> None:
        log_p, log_q = pair()
        at_end = divergences.jsd(log_p, log_q, beta=end, normalize=True)
        close = divergences.jsd(log_p, log_q, beta=near, normalize=True)
        torch.testing.assert_close(close, at_end, rtol=1e-3, atol=0)
        torch.testing.assert_close(at_end, divergences.jsd(log_p, log_q, beta=end))

    @pytest.mark.parametrize("end, near", [(0.0, 0.01), (1.0, 0.99)])
    def test_the_published_convention_jumps_at_both_ends(self, end: float, near: float) -> None:
        log_p, log_q = pair(0.3)
        share = divergences.jsd(log_p, log_q, beta=near) / divergences.jsd(log_p, log_q, beta=end)
        assert share.min() > 0.009
        assert share.max() < 0.011


class TestSkew:
    @pytest.mark.parametrize("skew", [0.01, 0.1, 0.5, 0.99])
    def test_bounds(self, skew: float) -> None:
        log_p, log_q = pair(8.0)
        value = divergences.skew_kl(log_p, log_q, skew=skew)
        assert value.max() <= -math.log(skew)
        assert (value <= (1 - skew) * divergences.forward_kl(log_p, log_q) + 1e-12).all()
        reverse = divergences.skew_reverse_kl(log_p, log_q, skew=skew)
        assert reverse.max() <= -math.log(skew)
        torch.testing.assert_close(reverse, divergences.skew_kl(log_q, log_p, skew=skew))

    def test_no_skew_is_the_limit(self) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.skew_kl(log_p, log_q, skew=1e-9),
            divergences.skew_kl(log_p, log_q, skew=0.0),
            rtol=1e-6,
            atol=0,
        )


class TestAdaptiveKl:
    @pytest.mark.parametrize("head_mass", [0.1, 0.5, 0.9, 1.0])
    def test_lies_between_the_two(self, head_mass: float) -> None:
        log_p, log_q = pair()
        forward = divergences.forward_kl(log_p, log_q)
        reverse = divergences.reverse_kl(log_p, log_q)
        value = divergences.adaptive_kl(log_p, log_q, head_mass=head_mass)
        assert (value >= torch.minimum(forward, reverse) - 1e-12).all()
        assert (value <= torch.maximum(forward, reverse) + 1e-12).all()

    def test_weights_are_the_errors_in_head_and_tail(self) -> None:
        p = torch.tensor([[0.4, 0.35, 0.2, 0.05]])
        q = torch.tensor([[0.3, 0.35, 0.15, 0.2]])
        # The head is the first token alone: with the second its mass would be .75 > .5.
        forward = divergences.forward_kl(p.log(), q.log())
        reverse = divergences.reverse_kl(p.log(), q.log())
        expected = (0.1 * forward + 0.2 * reverse) / 0.3
        torch.testing.assert_close(divergences.adaptive_kl(p.log(), q.log()), expected)

    def test_the_most_likely_token_is_always_in_the_head(self) -> None:
        p, q = torch.tensor([[0.9, 0.06, 0.04]]), torch.tensor([[0.5, 0.46, 0.04]])
        forward = divergences.forward_kl(p.log(), q.log())
        reverse = divergences.reverse_kl(p.log(), q.log())
        value = divergences.adaptive_kl(p.log(), q.log(), head_mass=0.5)
        torch.testing.assert_close(value, 0.5 * forward + 0.5 * reverse)


class TestAlphaBeta:
    CASES = [
        ((1.0, 0.0), "forward_kl"),
        ((0.0, 1.0), "reverse_kl"),
    ]

    @pytest.mark.parametrize("exponents, name", CASES)
    def test_kl_is_a_special_case(self, exponents: tuple[float, float], name: str) -> None:
        log_p, log_q = pair()
        torch.testing.assert_close(
            divergences.alpha_beta(log_p, log_q, a=exponents[0], b=exponents[1]),
            DIVERGENCES[name].function(log_p, log_q),
        )

    def test_hellinger_and_euclid_are_special_cases(self) -> None:
        log_p, log_q = pair()
        p, q = log_p.exp(), log_q.exp()
        torch.testing.assert_close(
            divergences.alpha_beta(log_p, log_q, a=0.5, b=0.5), 4 * (1 - (p * q).sqrt().sum(-1))
        )
        torch.testing.assert_close(
            divergences.alpha_beta(log_p, log_q, a=1.0, b=1.0), 0.5 * (p - q).square().sum(-1)
        )

    @pytest.mark.parametrize(
        "limit, direction",
        [
            ((0.7, 0.0), (0.0, 1.0)),
            ((0.7, 0.0), (1.0, -1.0)),
            ((0.0, 0.7), (1.0, 0.0)),
            ((0.6, -0.6), (1.0, 0.0)),
            ((-0.6, 0.6), (0.0, 1.0)),
            ((0.0, 0.0), (1.0, 0.0)),
            ((0.0, 0.0), (0.0, -1.0)),
            ((0.0, 0.0), (1.0, -1.0)),
            ((0.0, 0.0), (1.0, 0.5)),
        ],
    )
    def test_is_continuous_where_the_formula_divides_by_zero(
        self, limit: tuple[float, float], direction: tuple[float, float]
    ) -> None:
        log_p, log_q = pair(1.0)
        at = divergences.alpha_beta(log_p, log_q, a=limit[0], b=limit[1])
        errors = []
        for step in (1e-3, 1e-4):
            a, b = limit[0] + step * direction[0], limit[1] + step * direction[1]
            near = divergences.alpha_beta(log_p, log_q, a=a, b=b)
            errors.append((near / at - 1).abs().max().item())
        assert errors[1] < 1e-3
        assert errors[1] < 0.2 * errors[0]


class TestTotalVariation:
    def test_is_what_is_not_shared_and_obeys_pinsker(self) -> None:
        log_p, log_q = pair()
        value = divergences.total_variation(log_p, log_q)
        shared = torch.minimum(log_p.exp(), log_q.exp()).sum(-1)
        torch.testing.assert_close(value, 1 - shared)
        assert value.min() >= 0
        assert value.max() <= 1
        assert (value <= (divergences.forward_kl(log_p, log_q) / 2).sqrt()).all()
        assert (value <= (divergences.reverse_kl(log_p, log_q) / 2).sqrt()).all()


class TestLogitMse:
    def test_is_that_of_centred_logits(self) -> None:
        teacher, student, _ = logits()
        centred = (student - student.mean(-1, keepdim=True)) - (
            teacher - teacher.mean(-1, keepdim=True)
        )
        torch.testing.assert_close(
            divergences.logit_mse(teacher.log_softmax(-1), student.log_softmax(-1)),
            centred.square().mean(-1),
        )

    @pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
    def test_half_of_it_is_the_limit_of_kl_with_an_error_of_one_over_t(self, name: str) -> None:
        teacher, student, _ = logits()
        expected = 0.5 * divergences.logit_mse(teacher.log_softmax(-1), student.log_softmax(-1))
        errors = []
        for t in (1e3, 2e3):
            log_p, log_q = (teacher / t).log_softmax(-1), (student / t).log_softmax(-1)
            errors.append((t**2 * DIVERGENCES[name].function(log_p, log_q) / expected - 1).abs())
        torch.testing.assert_close(
            errors[0] / errors[1], torch.full_like(errors[0], 2), rtol=0.05, atol=0
        )
        assert errors[0].max() < 0.01


class TestDkd:
    def test_with_its_natural_weights_is_forward_kl(self) -> None:
        teacher, student, targets = logits()
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        for i in range(N):
            row = slice(i, i + 1)
            rest = 1 - log_p[i, targets[i]].exp().item()
            value = divergences.dkd(
                log_p[row], log_q[row], targets[row], target_weight=1.0, rest_weight=rest
            )
            torch.testing.assert_close(value, divergences.forward_kl(log_p[row], log_q[row]))

    def test_the_rest_does_not_feel_the_target(self) -> None:
        teacher, student, targets = logits()
        raised = student.clone()
        raised[torch.arange(N), targets] += 3
        log_p = teacher.log_softmax(-1)
        within = [
            divergences.dkd(log_p, s.log_softmax(-1), targets, target_weight=0.0, rest_weight=1.0)
            for s in (student, raised)
        ]
        torch.testing.assert_close(within[0], within[1])
