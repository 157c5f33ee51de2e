from __future__ import annotations

import pytest
import torch

from nexus.signals import Dense, Finish, Head, Headed, MixedScores, Scores, Signal, Support


class TestSignal:
    def test_fitting_is_inclusion(self) -> None:
        whole = Signal.DISTRIBUTION | Signal.FULL_VOCABULARY
        assert Signal.DISTRIBUTION in whole
        assert whole not in Signal.DISTRIBUTION
        assert Signal.NONE in Signal.TEXT

    def test_names(self) -> None:
        assert (Signal.DISTRIBUTION | Signal.TEXT).names == "DISTRIBUTION, TEXT"
        assert Signal.NONE.names == "nothing"


class TestHead:
    def test_finishes_in_the_order_of_the_families(self) -> None:
        products = torch.tensor([[1.0, -2.0, 30.0]])
        bias = torch.tensor([0.5, 0.0, 0.0])
        value = Finish(scale=2.0, softcap=30.0)(products, bias)
        expected = 30 * torch.tanh(torch.tensor([[3.0, -4.0, 60.0]]) / 30)
        torch.testing.assert_close(value, expected)
        assert value.abs().max() < 30

    def test_does_nothing_unless_told(self) -> None:
        products = torch.randn(2, 3)
        torch.testing.assert_close(Finish()(products), products)

    def test_is_fp32_whatever_comes_in(self) -> None:
        assert Finish()(torch.randn(2, 3).bfloat16()).dtype == torch.float32

    def test_rows_of_padding_are_no_part_of_it(self) -> None:
        weight, bias, hidden = torch.randn(8, 4), torch.randn(8), torch.randn(3, 4)
        head = Head(weight, bias, vocabulary=6)
        expected = hidden @ weight[:6].t() + bias[:6]
        torch.testing.assert_close(head.logits(hidden), expected)
        assert head.rows.shape == (6, 4)
        assert head.biases is not None
        assert head.biases.shape == (6,)

    def test_all_rows_unless_told(self) -> None:
        head = Head(torch.randn(8, 4))
        assert head.vocabulary == 8
        assert head.biases is None


class TestScores:
    @pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
    def test_log_probs_are_softened_and_normalised(self, temperature: float) -> None:
        logits = 5 * torch.randn(4, 9)
        expected = (logits.double() / temperature).log_softmax(-1)
        value = Scores(logits).log_probs(temperature)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)

    def test_gradient_is_that_of_log_softmax(self) -> None:
        logits, upstream = torch.randn(4, 9).double(), torch.randn(4, 9).double()
        mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        (Scores(mine).log_probs(2.0) * upstream).sum().backward()
        ((theirs / 2).log_softmax(-1) * upstream).sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad)

    @pytest.mark.parametrize("offset", [0.0, 25.0, 1e4, -1e4])
    def test_probabilities_sum_to_one_to_the_last_digit(self, offset: float) -> None:
        scores = Scores(2 * torch.randn(100, 50) + offset)
        mass = scores.log_probs().double().exp().sum(-1)
        assert (mass - 1).abs().max() < 1e-6

    def test_given_normalizers_are_used_as_they_are(self) -> None:
        logits = torch.randn(4, 9)
        scores = Scores(logits, {2.0: torch.full((4,), 7.0)})
        torch.testing.assert_close(scores.log_probs(2.0), logits / 2 - 7)
        torch.testing.assert_close(scores.log_probs(1.0), logits.log_softmax(-1))

    def test_detached_scores_say_the_same_without_gradient(self) -> None:
        logits = torch.randn(4, 9, requires_grad=True)
        scores = Scores(logits)
        scores.normalizer()
        still = scores.detach()
        torch.testing.assert_close(still.log_probs(2.0), scores.log_probs(2.0).detach())
        assert scores.log_probs(1.0).requires_grad
        assert not still.log_probs(1.0).requires_grad
        assert not still.log_probs(2.0).requires_grad


@pytest.mark.parametrize("kind", ["relative", "given", "probability", "logit"])
def test_logs_and_probabilities_together_are_those_alone(kind: str) -> None:
    """And in memory of their own: whoever writes into them leaves the scores as they were."""
    one, other = 3 * torch.randn(5, 40), 3 * torch.randn(5, 40)
    scores = {
        "relative": lambda: Scores(one + 1000),
        "given": lambda: Scores(one, {1.0: torch.logsumexp(one, -1)}),
        "probability": lambda: MixedScores([Scores(one), Scores(other)], (0.3, 0.7), "probability"),
        "logit": lambda: MixedScores([Scores(one), Scores(other)], (0.3, 0.7), "logit"),
    }[kind]()
    expected, normalizer = scores.log_probs().clone(), scores.normalizer().clone()
    log_probs, probs = scores.log_and_probs()
    torch.testing.assert_close(log_probs, expected)
    torch.testing.assert_close(probs, expected.exp())
    log_probs.zero_()
    probs.zero_()
    torch.testing.assert_close(scores.log_probs(), expected)
    torch.testing.assert_close(scores.normalizer(), normalizer)


@pytest.mark.parametrize("with_rest", [True, False])
def test_part_of_a_support(with_rest: bool) -> None:
    rest = torch.arange(5.0) if with_rest else None
    support = Support(torch.randn(5, 3), torch.arange(15).reshape(5, 3), rest)
    part = support.part(1, 3)
    assert len(part) == 2
    assert part.ids.tolist() == [[3, 4, 5], [6, 7, 8]]
    torch.testing.assert_close(part.log_probs, support.log_probs[1:3])
    assert (part.rest is None) is not with_rest
    if part.rest is not None:
        assert part.rest.tolist() == [1.0, 2.0]


def test_distributions_know_how_many_positions_they_are_of() -> None:
    assert len(Headed(torch.randn(7, 4), Head(torch.randn(9, 4)))) == 7
    assert len(Dense(torch.randn(7, 9))) == 7
    assert len(Support(torch.randn(7, 2), torch.zeros(7, 2).long())) == 7
