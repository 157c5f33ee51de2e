"""Planted faults are caught, each by the proof that is meant for it; healthy recipes are not."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.proofs import Proof
from nexus.recipe.schema import Stage
from nexus.teachers.local import LocalTeacher
from nexus.training.selftest import invariants

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

FAULTS = runpy.run_path(str(Path(__file__).with_name("faults.py")))["FAULTS"]
BOTH = (Task(weight=0.3), Output(weight=0.7, temperature=2.0))
HEAD = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "lm_head"]}


def stage(scene: SimpleNamespace, name: str = "train", objectives: Any = BOTH, **train: Any) -> Any:
    settings = scene.make_settings(**train)
    return Stage(name=name, objectives=tuple(objectives), train=settings)


def parts(
    scene: SimpleNamespace,
    stages: list[Stage],
    *,
    packed: bool = True,
    dropout: float = 0.0,
    padding: int = 0,
    student: Any = None,
    teacher: Any = None,
) -> dict[str, Any]:
    """What `invariants` takes: tiny models, and batches by the loader as it is now."""
    loader = __import__("nexus.data.loader", fromlist=["collate"])
    documents = scene.make_documents([20, 9, 23, 15, 12, 17])
    rows = [documents[:3], documents[3:]] if packed else [[document] for document in documents]
    teacher = teacher or scene.make_model(3, 1, dropout=dropout)
    return {
        "teacher": LocalTeacher(teacher, scene.VOCABULARY - padding, packed),
        "student": student or scene.make_model(2),
        "stages": stages,
        "batches": [loader.collate(rows, 60, 0, ("",))],
        "vocabulary": scene.VOCABULARY - padding,
        "packed": packed,
    }


def with_few_ids(given: dict[str, Any]) -> dict[str, Any]:
    """Without the ids that are padding in this vocabulary."""
    (batch,) = given["batches"]
    ids = batch.input_ids % given["vocabulary"]
    targets = torch.where(batch.is_target, batch.targets % given["vocabulary"], batch.targets)
    replaced = type(batch)(**{**batch.__dict__, "input_ids": ids, "targets": targets})
    return {**given, "batches": [replaced]}


SCENES: dict[str, Callable[[SimpleNamespace], dict[str, Any]]] = {
    "both": lambda scene: parts(scene, [stage(scene)]),
    "dropout": lambda scene: parts(scene, [stage(scene)], dropout=0.3),
    "padded vocabulary": lambda scene: with_few_ids(parts(scene, [stage(scene)], padding=5)),
    "head adapter": lambda scene: parts(scene, [stage(scene, lora=HEAD)]),
}

HEALTHY: dict[str, Callable[[SimpleNamespace], dict[str, Any]]] = {
    **SCENES,
    "output alone": lambda scene: parts(scene, [stage(scene, objectives=[Output()])]),
    "reverse and between": lambda scene: parts(
        scene,
        [
            stage(
                scene,
                objectives=[
                    Output(name="reverse", divergence="reverse_kl", temperature=3.0),
                    Output(name="between", divergence="jsd", beta=0.3),
                ],
            )
        ],
    ),
    "adapter": lambda scene: parts(scene, [stage(scene, lora={"rank": 4, "dropout": 0.1})]),
    "one document a row": lambda scene: parts(scene, [stage(scene)], packed=False),
    "tied head": lambda scene: parts(scene, [stage(scene)], student=scene.make_model(2, tied=True)),
    "several stages": lambda scene: parts(
        scene,
        [
            stage(scene, "follow", [Output()]),
            stage(scene, "again", [Output()]),
            stage(scene, "polish", BOTH, lora={"rank": 2}),
        ],
    ),
    "half precision": lambda scene: parts(
        scene, [stage(scene)], teacher=scene.make_model(3, 1).to(torch.bfloat16)
    ),
}


def failed(proofs: list[Proof]) -> list[str]:
    return [f"{proof.name}: {proof.detail}" for proof in proofs if proof.outcome == "failed"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_planted_fault_is_caught(scene: SimpleNamespace, fault: Any) -> None:
    with fault.plant():
        proofs = list(invariants(**SCENES[fault.scene](scene)))
    caught = [proof for proof in proofs if proof.outcome == "failed"]
    assert any(fault.caught_by in proof.name for proof in caught), failed(proofs)
    assert all(proof.remedy.endswith(".") for proof in caught)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_recipes_raise_no_alarm(scene: SimpleNamespace, name: str) -> None:
    proofs = list(invariants(**HEALTHY[name](scene)))
    assert not failed(proofs)
    assert len([proof for proof in proofs if proof.outcome == "proved"]) >= 18
    assert not any(proof.remedy for proof in proofs if proof.outcome == "proved")


def test_a_model_that_looks_ahead_is_caught(scene: SimpleNamespace) -> None:
    student = scene.make_model(2)
    for layer in student.model.layers:
        layer.register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))
    proofs = list(invariants(**parts(scene, [stage(scene)], student=student)))
    assert any("no position sees" in line for line in failed(proofs))


def test_weights_that_teacher_and_student_share_are_caught(scene: SimpleNamespace) -> None:
    given = parts(scene, [stage(scene)])
    inside = given["student"].model
    inside.layers[0].mlp.down_proj.weight = (
        given["teacher"].model.model.layers[0].mlp.down_proj.weight
    )
    inside.layers[0].mlp.down_proj.weight.requires_grad_(True)
    caught = failed(list(invariants(**given)))
    assert any("teacher is frozen" in line for line in caught)
    assert any("leaves the teacher alone" in line for line in caught)


def test_dropout_of_the_student_is_named(scene: SimpleNamespace) -> None:
    given = parts(scene, [stage(scene)], student=scene.make_model(2, dropout=0.2))
    (said,) = (p for p in invariants(**given) if "no dropout" in p.name)
    assert said.outcome == "doubtful" and "attention_dropout" in said.detail


def test_a_term_that_hardly_counts_is_doubtful(scene: SimpleNamespace) -> None:
    terms = (Task(weight=1.0), Output(weight=1e-6))
    (said,) = (
        p for p in invariants(**parts(scene, [stage(scene, objectives=terms)]))
        if p.name == "the term 'output' changes the gradient"
    )  # fmt: skip
    assert said.outcome == "doubtful"


@pytest.mark.parametrize("stop_after", [3, 14, 22, 25, None])
def test_everything_is_as_it_was(scene: SimpleNamespace, stop_after: int | None) -> None:
    """Weights bit for bit, types, modes, gradients and random numbers; also if it is broken off."""
    given = parts(
        scene, [stage(scene), stage(scene, "later", [Output()], lora=HEAD)],
        teacher=scene.make_model(3, 1).to(torch.bfloat16), student=scene.make_model(2).train(),
    )  # fmt: skip
    models = [given["teacher"].model, given["student"]]
    before = [described(model) for model in models]
    random = torch.get_rng_state()
    proofs = invariants(**given)
    for number, _ in enumerate(proofs, start=1):
        if number == stop_after:
            break
    proofs.close()
    assert torch.equal(torch.get_rng_state(), random)
    for model, was in zip(models, before, strict=True):
        is_ = described(model)
        assert is_[0].keys() == was[0].keys()
        assert all(torch.equal(is_[0][name], value) for name, value in was[0].items())
        assert is_[1:] == was[1:]


def described(model: Any) -> tuple[Any, ...]:
    weights = {name: copy.deepcopy(value) for name, value in model.state_dict().items()}
    each = [(n, p.dtype, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]
    modes = [(name, type(part), part.training) for name, part in model.named_modules()]
    return weights, each, modes, model.config.to_dict()


def test_batches_without_targets_are_said(scene: SimpleNamespace) -> None:
    given = parts(scene, [stage(scene)])
    (batch,) = given["batches"]
    silent = type(batch)(**{**batch.__dict__, "targets": torch.full_like(batch.targets, -100)})
    proofs = list(invariants(**{**given, "batches": [silent]}))
    assert [proof.outcome for proof in proofs] == ["proved", "skipped"]


def test_a_loss_without_any_gradient_is_a_failed_proof(scene: SimpleNamespace) -> None:
    """An adapter in the body, whose states are cut off from the loss."""
    student = scene.make_model(2)
    student.model.norm.register_forward_hook(lambda _, __, out: out.detach())
    adapter = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]}
    for stages in (
        [stage(scene, lora=adapter)],
        [stage(scene), stage(scene, "second", lora=adapter)],
    ):
        proofs = list(invariants(**parts(scene, stages, student=student)))
        last = proofs[-1]
        assert last.outcome == "failed" and last.name.startswith("the loss depends on what is")
