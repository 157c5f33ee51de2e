from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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


def test_all_at_once_is_each_alone(teacher: Tensor, student: Tensor) -> None:
    found = observers.Compared(*observers.compared(Scores(student), Scores(teacher), TARGETS))
    told = Scores(teacher)
    for name in ("forward_kl", "reverse_kl", "agreement"):
        alone = getattr(observers, name)(Scores(student), told, TARGETS)
        torch.testing.assert_close(getattr(found, name), alone, rtol=1e-5, atol=1e-6)
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(found.acceptance, 1 - 0.5 * (p - q).abs().sum(-1))
    for of, probabilities in (("student", q), ("teacher", p)):
        entropy = torch.distributions.Categorical(probabilities).entropy()
        torch.testing.assert_close(getattr(found, f"{of}_entropy"), entropy)
        torch.testing.assert_close(getattr(found, f"{of}_confidence"), probabilities.amax(-1))
        right = (probabilities.argmax(-1) == TARGETS.tokens).float()
        torch.testing.assert_close(getattr(found, f"{of}_correct"), right)
        at_target = -probabilities.log()[torch.arange(N), TARGETS.tokens]
        torch.testing.assert_close(getattr(found, f"{of}_nll"), at_target)


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=2 * V, max_size=2 * V)
ONE = Targets(torch.tensor([0]), torch.zeros(1).long(), torch.zeros(1).long())


def seen(student: Tensor, teacher: Tensor) -> observers.Compared:
    return observers.Compared(*observers.compared(Scores(student), Scores(teacher), ONE))


@given(LOGITS)
def test_acceptance_is_one_less_the_total_variation(values: list[float]) -> None:
    """And the total variation is at most sqrt(KL / 2), either way (Pinsker)."""
    student, teacher = torch.tensor(values).view(2, 1, V)
    found = seen(student, teacher)
    p, q = teacher.double().softmax(-1), student.double().softmax(-1)
    variation = float(0.5 * (p - q).abs().sum())
    assert found.acceptance.item() == pytest.approx(1 - variation, abs=3e-5)
    for divergence in (found.forward_kl, found.reverse_kl):
        assert variation <= math.sqrt(max(0.0, divergence.item()) / 2 + 1e-5)
    for entropy in (found.student_entropy, found.teacher_entropy):
        assert -1e-4 <= entropy.item() <= math.log(V) + 1e-4


@given(LOGITS)
def test_a_student_that_is_its_teacher_is_always_accepted(values: list[float]) -> None:
    logits = torch.tensor(values[:V]).view(1, V)
    # A constant on all logits is no difference.
    found = seen(logits + 3, logits)
    assert found.acceptance.item() == pytest.approx(1, abs=1e-4)
    assert found.forward_kl.item() == pytest.approx(0, abs=1e-4)
    assert found.reverse_kl.item() == pytest.approx(0, abs=1e-4)


@given(st.integers(2, 500), st.floats(-20, 20))
def test_the_entropy_of_all_alike_is_the_logarithm_of_how_many(size: int, level: float) -> None:
    alike = torch.full((1, size), level)
    found = seen(alike, alike)
    assert found.student_entropy.item() == pytest.approx(math.log(size), rel=1e-5)
    assert found.student_nll.item() == pytest.approx(math.log(size), rel=1e-5)
    assert found.student_confidence.item() == pytest.approx(1 / size, rel=1e-4)


def test_two_tokens_in_closed_form() -> None:
    p, q = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.5, 0.5]])
    at = Targets(torch.tensor([0]), torch.zeros(1).long(), torch.zeros(1).long())
    found = observers.Compared(*observers.compared(Scores(q.log()), Scores(p.log()), at))
    assert found.acceptance.item() == pytest.approx(0.7)
    assert found.student_entropy.item() == pytest.approx(0.693147, abs=1e-5)
    assert found.student_nll.item() == pytest.approx(0.693147, abs=1e-5)
    assert found.teacher_confidence.item() == pytest.approx(0.8)
    assert found.teacher_correct.item() == 1.0
    with pytest.raises(ValueError, match="all tokens"):
        observers.compared(Scores(q.log()), top(p.log(), 1), at)
