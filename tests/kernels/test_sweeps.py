from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nexus.batch import Targets
from nexus.kernels.sweeps import Losses, Sweeps
from nexus.objectives import observers
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.signals import Finish, Head, Scores, Support

N, V = 5, 23


@pytest.fixture
def traced(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compiling stops before code is generated; each traced graph is counted."""
    graphs: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: compile_(f, backend=count, **options)
    )
    return graphs


def targets(n: int = N) -> Targets:
    return Targets(torch.randint(V, (n,)), torch.zeros(n).long(), torch.zeros(n).long())


def losses(*, temperature: float = 2.0) -> Losses:
    output = Output(temperature=temperature)
    return Losses(
        (Task().per_token, output.per_token),
        (observers.forward_kl,),
        (1.0, temperature),
        (1.0, temperature),
    )


def run(losses: Losses, n: int, *, told: Any = "logits", fused: bool = True) -> Tensor:
    of = Sweeps.of(losses, Head(torch.randn(V, 4)), None, fused)
    said = (torch.randn(n, V),) if told == "logits" else told
    values, _ = of(torch.randn(n, V), None, said, (None,), targets(n), torch.ones(losses.count))
    return values


class TestStatistics:
    @pytest.mark.parametrize("offset", [0.0, 1e4])
    def test_top_and_normalizers(self, offset: float) -> None:
        logits = torch.randn(N, V) + offset
        of = Sweeps.of(Losses((), (), (0.5, 2.0), ()), Head(torch.randn(V, 4)), None, False)
        known = of.normalize(logits, None, None, (None,))
        torch.testing.assert_close(known.student.top, logits.amax(-1))
        for column, temperature in enumerate((0.5, 2.0)):
            exact = (
                (logits.double() - logits.double().amax(-1, keepdim=True)) / temperature
            ).logsumexp(-1)
            torch.testing.assert_close(
                known.student.normalizers[:, column].double(), exact, rtol=1e-6, atol=1e-6
            )
        assert known.teacher == ()


class TestGradient:
    @pytest.mark.parametrize("temperatures", [(), (1.0,), (1.0, 2.0), (0.3,)])
    def test_temperatures_known_beforehand_only_save_time(
        self, temperatures: tuple[float, ...]
    ) -> None:
        output, at = Output(temperature=2.0), targets()
        products, teacher = torch.randn(N, V), torch.randn(N, V)
        weights = torch.tensor([0.7, 1.3])
        known = Losses((Task().per_token, output.per_token), (), temperatures, temperatures)
        of = Sweeps.of(known, Head(torch.randn(V, 4), finish=Finish(0.5, 3.0)), None, False)
        mine = products.clone()
        values, _ = of(mine, None, (teacher,), (None,), at, weights)

        leaf = products.double().requires_grad_()
        student = Scores(3 * torch.tanh(leaf * 0.5 / 3))
        expected = torch.stack(
            [
                Task().per_token(student, None, at),
                output.per_token(student, Scores(teacher.double()), at),
            ]
        )
        (weights.double() @ expected).sum().backward()
        torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=1e-5)
        assert leaf.grad is not None
        torch.testing.assert_close(mine.double(), leaf.grad, rtol=1e-4, atol=1e-6)


class TestCompiling:
    def test_no_length_and_no_weights_compile_anew(self, traced: list[int]) -> None:
        three = losses()
        for n in (5, 9, 2, 70, 1, 5):
            run(three, n)
        assert len(traced) == 3

    def test_equal_losses_share_what_is_compiled(self, traced: list[int]) -> None:
        output = Output()
        for n in (5, 9):
            run(Losses((output.per_token,), (), (1.0,), (1.0,)), n)
        assert len(traced) == 3
        run(Losses((output.per_token,), (observers.nll,), (1.0,), (1.0,)), 9)
        assert len(traced) == 6

    @pytest.mark.parametrize("with_rest", [True, False])
    def test_supports_vary_in_length_too(self, traced: list[int], with_rest: bool) -> None:
        output = Output()
        for n in (5, 9, 2):
            rest = torch.full((n,), 0.5).log() if with_rest else None
            told = Support(torch.full((n, 1), 0.5).log(), torch.zeros(n, 1).long(), rest)
            run(Losses((output.per_token,), (), (1.0,), ()), n, told=told)
        assert len(traced) == 3

    def test_the_tenth_set_of_losses_is_compiled_like_the_first(self, traced: list[int]) -> None:
        # PyTorch gives up after eight versions of a function, unless each set has its own.
        for count in range(1, 11):
            one = Losses((Task().per_token,), (), (1.0, 1.0 + count), ())
            run(one, 5, told=None)
            assert len(traced) == 3 * count

    def test_unfused_nothing_is_compiled(self, traced: list[int]) -> None:
        run(losses(), 5, fused=False)
        assert traced == []

    def test_mistakes_stay_readable(self, traced: list[int]) -> None:
        told = Support(torch.zeros(5, 1), torch.zeros(5, 1).long())
        wrong = Losses((Output(divergence="reverse_kl").per_token,), (), (1.0,), ())
        with pytest.raises(Exception, match="forward_kl only"):
            run(wrong, 5, told=told)
