"""The kernel benchmark: what it compares is the same thing, and its numbers come from calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kernel
import losses
import machine
import pytest
import torch
from kernel import SHAPES, compared, goals
from losses import VARIANTS, plain_loss
from problem import Problem, Shape, compare, pose, solve
from turns import Entry, Outcome, take_turns

from nexus.errors import UsageError

SHAPE = Shape(tokens=160, student=24, teacher=24, vocabulary=700)
UNLIKE = Shape(tokens=160, student=16, teacher=32, vocabulary=700)


@pytest.fixture(params=[SHAPE, UNLIKE], ids=["near", "far"])
def solved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Problem, Path, float]:
    pose(tmp_path, request.param)
    loss = solve(tmp_path, request.param, plain_loss)
    return Problem.attach(tmp_path, request.param), tmp_path, loss


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["nexus", "nexus_eager", "naive", "liger_eager", "trl"])
def test_all_variants_compute_the_same(name: str, solved: tuple[Problem, Path, float]) -> None:
    if package := VARIANTS[name].package:
        pytest.importorskip({"liger-kernel": "liger_kernel"}.get(package, package))
    problem, folder, right = solved
    step = VARIANTS[name].build(problem)
    for _ in range(2):  # the second call has a workspace, and fresh gradients
        problem.clear()
        loss = step()
        facts = compare(problem, folder)
        assert loss.item() == pytest.approx(right, rel=5e-3)
        for part in ("hidden", "weight"):
            assert facts[f"{part}_error"] < 0.01
            assert facts[f"{part}_length"] == pytest.approx(1, abs=0.005)


def test_reference_is_right_in_float64(solved: tuple[Problem, Path, float]) -> None:
    problem, folder, loss = solved
    hidden, weight, theirs, their_weight = (
        part.detach().double().requires_grad_() for part in problem.tensors[:4]
    )
    at = problem.is_target
    q = torch.log_softmax(hidden[at] @ weight.t(), -1)
    soft_q = torch.log_softmax(hidden[at] @ weight.t() / 2, -1)
    soft_p = torch.log_softmax(theirs[at] @ their_weight.t() / 2, -1).detach()
    task = -q[torch.arange(len(q)), problem.targets[at]]
    exact = (0.5 * task + 0.5 * 4 * (soft_p.exp() * (soft_p - soft_q)).sum(-1)).mean()
    exact.backward()
    assert loss == pytest.approx(exact.item(), rel=1e-5)
    problem.hidden.grad, problem.weight.grad = hidden.grad.bfloat16(), weight.grad.bfloat16()
    facts = compare(problem, folder)
    assert max(facts["hidden_error"], facts["weight_error"]) < 2**-8


def test_wrong_gradients_are_seen(solved: tuple[Problem, Path, float]) -> None:
    problem, folder, _ = solved
    VARIANTS["naive"].build(problem)()
    problem.weight.grad *= 1.05
    facts = compare(problem, folder)
    assert facts["weight_error"] == pytest.approx(0.05, abs=0.005)
    assert facts["weight_length"] == pytest.approx(1.05, abs=0.005)
    assert facts["hidden_error"] < 0.01


def test_a_third_of_the_rows_is_ignored_and_gets_no_gradient(
    solved: tuple[Problem, Path, float],
) -> None:
    problem, _, _ = solved
    assert 0.2 < 1 - problem.target_count / len(problem.targets) < 0.4
    VARIANTS["nexus_eager"].build(problem)()
    assert not problem.hidden.grad[~problem.is_target].any()
    assert problem.hidden.grad[problem.is_target].any(-1).all()


def test_the_limit_is_the_products_of_the_rows_that_count(tmp_path: Path) -> None:
    pose(tmp_path, SHAPE)
    problem = Problem.attach(tmp_path, SHAPE)
    sizes = {name: product().shape for name, product in losses.products(problem).items()}
    count, width, vocabulary = problem.target_count, SHAPE.student, SHAPE.vocabulary
    assert sizes == {
        "student logits": (count, vocabulary),
        "teacher logits": (count, vocabulary),
        "hidden gradient": (count, width),
        "head gradient": (vocabulary, width),
        "head gradient, transposed": (width, vocabulary),
    }


def test_goals_compare_medians() -> None:
    def outcome(seconds: list[float], memory: float) -> Outcome:
        final = dict.fromkeys(("hidden_error", "weight_error"), 0.002)
        final |= {"hidden_length": 1.001, "weight_length": 0.998, "memory_mib": memory}
        turns = [{"seconds": each, "processor_seconds": each} for each in seconds]
        return Outcome([{"seconds": 9.0}], turns, final)

    naive, limit = outcome([6.0, 5.0, 90.0], 800.0), outcome([0.5], 1.0)
    own = compared("nexus", outcome([1.0, 1.0, 50.0], 80.0), naive, limit)
    liger = compared("liger", outcome([1.5], 400.0), naive, limit)
    assert own["times_as_fast_as_naive"] == pytest.approx(6)
    assert own["times_the_limit"] == pytest.approx(2)
    assert own["gradient_length"] == 0.998
    met = {goal["what"]: goal["met"] for goal in goals([own, liger])}
    assert met == {
        "times as fast as naive PyTorch": True,
        "times as fast as Liger, compiled": False,
        "memory, share of naive PyTorch": True,
        "gradient error": True,
        "gradient length, off by": True,
    }


def test_a_variant_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    arguments = (tmp_path, SHAPES["tiny"])
    entries = {
        "broken": Entry(kernel.play, ("nobody", *arguments, 1)),
        "sound": Entry(kernel.play_reference, arguments),
    }
    outcomes = take_turns(entries, warmups=1, rounds=0)
    assert "KeyError: 'nobody'" in outcomes["broken"].error
    assert not outcomes["sound"].error
    assert outcomes["sound"].final["targets"] > 100


def test_a_peer_that_is_not_installed_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_version", lambda package: None)
    with pytest.raises(UsageError, match="liger-kernel is not installed: run pip install --no-de"):
        kernel.main(variants=("liger",), tiny=True)


def test_one_command_measures_and_writes(tmp_path: Path) -> None:
    output = tmp_path / "results" / "kernel"
    command = [sys.executable, str(Path(kernel.__file__)), "--tiny", "--rounds", "2"]
    options = ["--variants", "nexus_eager", "--output", str(output)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(output.with_suffix(".json").read_text())
    tiny = facts["shapes"]["tiny"]
    assert [row["name"] for row in tiny["variants"]] == ["nexus_eager", "naive"]
    for row in tiny["variants"]:
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert row["loss"] == pytest.approx(tiny["reference_loss"], rel=2e-3)
        assert row["gradient_error"] < 0.01
    assert set(facts["machine"]["versions"]) >= {"torch", "nexus-distillation"}
    text = output.with_suffix(".md").read_text()
    assert text == done.stdout
    assert "| naive PyTorch |" in text


def test_an_unknown_variant_is_a_mistake_without_traceback() -> None:
    command = [sys.executable, str(Path(kernel.__file__)), "--variants", "nxus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "variant 'nxus' does not exist. Known: nexus, " in done.stderr
    assert "Traceback" not in done.stderr
