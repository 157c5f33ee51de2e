from __future__ import annotations

import torch
from torch.nn import functional

from nexus.batch import Targets
from nexus.objectives.task import Task, negative_log_likelihood
from nexus.signals import Scores, Signal


def targets(tokens: torch.Tensor) -> Targets:
    return Targets(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens))


def test_is_cross_entropy_with_its_gradient() -> None:
    logits, tokens = 3 * torch.randn(7, 19), torch.randint(19, (7,))
    mine, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = Task().per_token(Scores(mine), None, targets(tokens))
    expected = functional.cross_entropy(theirs, tokens, reduction="none")
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=1e-6)


def test_large_logits_keep_their_digits() -> None:
    small = torch.tensor([[0.0, 1.0, -2.0]])
    at = targets(torch.tensor([1]))
    expected = negative_log_likelihood(Scores(small), at)
    for offset in (1e4, -1e4):
        value = negative_log_likelihood(Scores(small + offset), at)
        torch.testing.assert_close(value, expected)


def test_certainty_and_its_opposite() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    value = negative_log_likelihood(Scores(logits), targets(torch.tensor([0, 1])))
    assert value.tolist() == [0.0, 2e4]


def test_needs_no_teacher() -> None:
    assert Task().needs == Signal.NONE
    assert Task().temperatures == {1.0}
