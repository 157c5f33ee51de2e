"""A check of a whole workspace, and a run that it stops."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus import pipeline
from nexus.checking.check import check, described, refusal
from nexus.errors import UsageError
from nexus.findings import read
from nexus.proofs import Check, Proof
from nexus.recipe.load import load

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


def distil(recipe: Path, *changes: str) -> Any:
    return pipeline.run(load(recipe, changes), recipe.parent)


def weights(run: Any) -> str:
    return hashlib.sha256((run.student / "model.safetensors").read_bytes()).hexdigest()


def test_a_healthy_recipe_fails_nothing_and_leaves_nothing(recipe: Path) -> None:
    before = sorted(recipe.parent.rglob("*"))
    result = check(load(recipe), recipe.parent)
    assert result.complete and not result.failures
    assert {proof.group for proof in result.proofs} == {"fit", "teacher", "tokens", "data", "loss"}
    assert sorted(recipe.parent.rglob("*")) == before


def test_the_cheap_part_changes_no_weight(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = distil(recipe, "output=checked")
    found = Check.load(checked.path)
    assert found is not None and not found.complete and not found.failures
    monkeypatch.setattr(pipeline, "begin", lambda *_, **__: "")
    unchecked = distil(recipe, "output=unchecked")
    assert Check.load(unchecked.path) is None and weights(checked) == weights(unchecked)


def test_a_teacher_that_is_worse_stops_the_run_unless_told_otherwise(recipe: Path) -> None:
    swapped = ("teacher.model=student", "student.model=teacher", "train.steps=1")
    with pytest.raises(UsageError, match="the teacher predicts.*check.stop=false"):
        distil(recipe, "output=worse", *swapped)
    assert not (recipe.parent / "worse").exists()
    run = distil(recipe, "output=worse", "check.stop=false", *swapped)
    found = Check.load(run.path)
    assert found is not None and [proof.group for proof in found.failures] == ["teacher"]
    assert any("the teacher predicts" in finding.what for finding in read(run.path))


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.checking.fit.available_bytes", lambda _: 0)
    monkeypatch.setattr("nexus.checking.fit.held_bytes", lambda _: 0)
    monkeypatch.setattr(pipeline, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UsageError, match="the run fits in memory: about .* GiB"):
        distil(recipe, "output=huge")
    result = check(load(recipe), recipe.parent)
    assert [proof.name for proof in result.failures] == ["the run fits in memory"]


def test_a_refusal_is_one_line_a_failure() -> None:
    proof = Proof(group="data", name="a", outcome="failed", detail="b\nc", remedy="Do d.")
    assert described(proof) == "a: b c. Do d"
    assert refusal([proof, proof]).count("\n") == 1
