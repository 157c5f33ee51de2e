"""A teacher that is trained on the text before it teaches: two stages, told by a recipe."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from nexus import stages
from nexus.batch import Batch
from nexus.checking.check import check
from nexus.checking.teacher import NAME
from nexus.errors import Interrupted
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.results import Evaluation
from nexus.signals import Signal, Signals
from nexus.teachers.local import LocalTeacher
from nexus.training import loop

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
STEPS = {"correct": 12, "distil": 6}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    values = yaml.safe_load(path.read_text())
    train, output = values.pop("train"), values.pop("objectives")
    values["student"] = {"kind": "pretrained", "model": "teacher"}
    values["evaluate"] = {"speed_seconds": 0, "samples": 0, "rollouts": 0}
    train["heldout_every"] = 0
    values["stages"] = [
        {
            "name": "correct",
            "objectives": [{"kind": "task"}],
            "train": {**train, "steps": STEPS["correct"]},
        },
        {
            "name": "distil",
            "student": {"kind": "pruned", "shape": {"layers": 2}, "calibration_tokens": 512},
            "teacher": "previous",
            "objectives": output,
            "train": {**train, "steps": STEPS["distil"]},
        },
    ]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, torch.Tensor]]]:
    """By stage, the teacher's weights at each time that training asked it."""
    found: dict[str, list[dict[str, torch.Tensor]]] = {name: [] for name in STEPS}
    train = loop.train

    def watched(work: loop.Stage, *rest: Any, **named: Any) -> int:
        teacher = work.teacher
        assert isinstance(teacher, LocalTeacher)
        answer: Callable[[Batch, Signal], Signals] = teacher.signals

        def signals(batch: Batch, wanted: Signal) -> Signals:
            state = teacher.pretrained.state_dict()
            found[work.name].append({name: weight.clone() for name, weight in state.items()})
            return answer(batch, wanted)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(teacher, "signals", signals)
            return train(work, *rest, **named)

    monkeypatch.setattr(stages.loop, "train", watched)
    return found


def test_the_text_corrects_the_teacher_which_then_teaches(
    recipe: Path, asked: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    directory = run(load(recipe), recipe.parent)
    assert asked["correct"] == [] and len(asked["distil"]) >= STEPS["distil"]
    corrected = AutoModelForCausalLM.from_pretrained(directory.path / "stages/correct/student")
    original = AutoModelForCausalLM.from_pretrained(recipe.parent / "teacher")
    left, before = corrected.state_dict(), original.state_dict()
    for used in asked["distil"]:
        assert used.keys() == left.keys()
        assert all(torch.equal(weight, left[name]) for name, weight in used.items())
    assert not torch.equal(left["model.norm.weight"], before["model.norm.weight"])

    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout is not None
    correct, distil = evaluation.stages
    assert [(one.name, one.teacher) for one in (correct, distil)] == [
        ("correct", "none"), ("distil", "previous"),
    ]  # fmt: skip
    assert [one.tokens for one in (correct, distil)] == [256 * steps for steps in STEPS.values()]
    assert correct.teacher_flops == 0 and correct.student_flops and distil.teacher_flops
    # A step of the correction is three forward passes of what then teaches with one.
    assert correct.student_flops / correct.tokens == 3 * distil.teacher_flops / distil.tokens
    # Compared with the teacher as it came: itself at first, and no longer after its correction.
    assert correct.begun and correct.begun.forward_kl and correct.ended and correct.ended.forward_kl
    assert correct.begun.forward_kl.value == pytest.approx(0, abs=1e-6)
    assert correct.ended.forward_kl.value > 0.01
    assert correct.ended.nll.value < correct.begun.nll.value
    assert "teacher: none" in (directory.path / "report.html").read_text()


def test_stopped_in_either_stage_it_ends_in_the_same_weights(recipe: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(run(load(recipe), recipe.parent).student)
    for steps in (STEPS["correct"] - 2, STEPS["correct"] + 2):
        again = load(recipe, (f"output=stopped{steps}",))
        with pytest.raises(Interrupted):
            run(again, recipe.parent, stopping=SMALL["StopAfter"](steps + 1))
        ended = AutoModelForCausalLM.from_pretrained(run(again, recipe.parent).student)
        for one, other in zip(whole.parameters(), ended.parameters(), strict=True):
            assert torch.equal(one, other)


def test_nothing_is_held_against_a_student_that_is_its_teacher(recipe: Path) -> None:
    proofs = {proof.name: proof for proof in check(load(recipe), recipe.parent).proofs}
    assert not [name for name, proof in proofs.items() if proof.outcome == "failed"]
    assert proofs[NAME].outcome == "skipped" and "no stage learns from it" in proofs[NAME].detail
