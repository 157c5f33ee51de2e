from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nexus.batch import Targets
from nexus.errors import UsageError
from nexus.objectives import observers
from nexus.signals import Scores, Support

N, V = 5, 9


@pytest.fixture
def teacher() -> Tensor:
    return 2 * torch.randn(N, V)


@pytest.fixture
def student() -> Tensor:
    return 2 * torch.randn(N, V)


TARGETS = Targets(torch.arange(N), torch.zeros(N).long(), torch.zeros(N).long())


def top(teacher: Tensor, k: int) -> Support:
    log_p = teacher.log_softmax(-1)
    kept, ids = log_p.topk(k, dim=-1)
    return Support(kept, ids, log_p.scatter(-1, ids, -torch.inf).logsumexp(-1))


def test_kl_both_ways(teacher: Tensor, student: Tensor) -> None:
    log_p, log_q = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    for observer, expected in (
        (observers.forward_kl, functional.kl_div(log_q, log_p, reduction="none", log_target=True)),
        (observers.reverse_kl, functional.kl_div(log_p, log_q, reduction="none", log_target=True)),
    ):
        value = observer(Scores(student), Scores(teacher), TARGETS)
        torch.testing.assert_close(value.double(), expected.sum(-1), rtol=1e-5, atol=1e-6)
        within = observer(Scores(student), top(teacher, 4), TARGETS)
        assert (within <= value + 1e-6).all()
        assert within.max() > 0


def test_nll_is_cross_entropy(student: Tensor) -> None:
    value = observers.nll(Scores(student), None, TARGETS)
    expected = functional.cross_entropy(student, TARGETS.tokens, reduction="none")
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("tell", [Scores, lambda x: top(x, 1), lambda x: top(x, 4)])
def test_agreement_is_about_the_most_likely_token(
    teacher: Tensor, student: Tensor, tell: Callable[[Tensor], Scores | Support]
) -> None:
    teacher[:, 3] = 30.0
    student[:2, 3], student[2:, 5] = 40.0, 40.0
    value = observers.agreement(Scores(student), tell(teacher), TARGETS)
    assert value.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_agreement_of_an_unordered_support(student: Tensor) -> None:
    student[:, 7] = 40.0
    support = Support(
        torch.tensor([[0.1, 0.6, 0.2]]).log().expand(N, -1).contiguous(),
        torch.tensor([[2, 7, 4]]).expand(N, -1).contiguous(),
        torch.full((N,), 0.1).log(),
    )
    assert observers.agreement(Scores(student), support, TARGETS).tolist() == [1.0] * N


def test_sampled_ids_tell_nothing_of_reverse_kl(teacher: Tensor, student: Tensor) -> None:
    sampled = Support(torch.zeros(N, 1), teacher.argmax(-1, keepdim=True))
    expected = -student.log_softmax(-1).gather(-1, sampled.ids).squeeze(-1)
    value = observers.forward_kl(Scores(student), sampled, TARGETS)
    torch.testing.assert_close(value, expected)
    with pytest.raises(UsageError, match="forward_kl only"):
        observers.reverse_kl(Scores(student), sampled, TARGETS)


@pytest.mark.parametrize(
    "observer", [observers.forward_kl, observers.reverse_kl, observers.agreement]
)
def test_a_comparison_needs_a_teacher(observer: Callable[..., Tensor], student: Tensor) -> None:
    with pytest.raises(ValueError, match="teacher"):
        observer(Scores(student), None, TARGETS)
