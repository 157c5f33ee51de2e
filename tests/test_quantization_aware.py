"""A student that learns within few bits: closer to what it was than rounding left it, resumably."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nexus import hub
from nexus.errors import Interrupted, UsageError
from nexus.pipeline import run
from nexus.quantization.grid import Grid
from nexus.quantization.linear import PackedLinear
from nexus.recipe.load import load
from nexus.report.build import build
from nexus.results import Evaluation, QuantizedResult
from nexus.rundir import RunDirectory
from nexus.training.killed import FILE_NAME as RUNNING

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
DISTILL: dict[str, Any] = {
    "parameters": "scales",
    "train": {
        "steps": 16, "tokens_per_step": 256, "warmup_steps": 2, "precision": "fp32",
        "learning_rate": 1.0e-2, "save_every": 8, "dashboard": "none", "heldout_every": 8,
    },
}  # fmt: skip
SCALES, WEIGHTS = "scales", "weights"


def written(folder: Path, **distill: Any) -> Path:
    recipe: Path = SMALL["write_workspace"](folder)
    values = yaml.safe_load(recipe.read_text())
    train = {**DISTILL["train"], **distill.pop("train", {})}
    values["quantize"] = {
        "scheme": "int3", "group_size": 32, "distill": {**DISTILL, **distill, "train": train},
    }  # fmt: skip
    values["train"] |= {"steps": 10, "save_every": 5}
    values["evaluate"] |= {"rollouts": 0}
    recipe.write_text(yaml.safe_dump(values))
    return recipe


@pytest.fixture(scope="module", params=[SCALES, WEIGHTS])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    rate = {} if request.param == SCALES else {"learning_rate": 1.0e-3}
    recipe = written(folder, parameters=request.param, train=rate)
    return run(load(recipe), recipe.parent)


def result(directory: RunDirectory) -> QuantizedResult:
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.quantized is not None
    return evaluation.quantized


def grids(folder: Path) -> dict[str, Grid]:
    model = hub.load_model(hub.ModelSource(model=str(folder), dtype="auto"), Path())
    return {n: part.grid() for n, part in model.named_modules() if isinstance(part, PackedLinear)}


def test_it_comes_closer_to_the_student_than_rounding_left_it(done: RunDirectory) -> None:
    rounded = result(done)
    distilled = rounded.distilled
    assert distilled is not None and distilled.name == "student-int3-distilled"
    assert rounded.to_student is not None and distilled.to_student is not None
    before, after = rounded.to_student.forward_kl, distilled.to_student.forward_kl
    assert before is not None and after is not None
    assert after.value < 0.9 * before.value
    assert distilled.over_rounded is not None
    brought = distilled.over_rounded.to_student["forward_kl"]
    assert brought.value == pytest.approx(after.value - before.value, abs=1e-6)
    assert brought.high is not None and brought.high < 0
    ratio = distilled.over_rounded.perplexity_ratio
    assert ratio is not None and rounded.to_teacher is not None
    assert distilled.to_teacher is not None
    own = distilled.to_teacher.perplexity.value / rounded.to_teacher.perplexity.value
    assert ratio.value == pytest.approx(own, rel=1e-4)
    assert distilled.training is not None and distilled.training.steps == 16


def test_nothing_but_what_was_to_learn_has_moved(done: RunDirectory) -> None:
    rounded, distilled = done.path / "student-int3", done.path / "student-int3-distilled"
    before, after = grids(rounded), grids(distilled)
    assert before.keys() == after.keys() and len(after) == 14
    facts = json.loads((distilled / "quantization.json").read_text())
    same = [torch.equal(before[name].codes, after[name].codes) for name in before]
    assert all(same) if facts["training"]["parameters"] == SCALES else not any(same)
    assert not any(torch.equal(before[name].scale, after[name].scale) for name in before)
    source = [hub.ModelSource(model=str(path), dtype="auto") for path in (rounded, distilled)]
    one, other = (hub.load_model(each, Path()) for each in source)
    theirs = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    sizes = [(path / "model.safetensors").stat().st_size for path in (rounded, distilled)]
    assert sizes[0] == sizes[1]


def test_it_is_a_stage_of_its_own_that_reads_on_in_the_text(done: RunDirectory) -> None:
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    stages = [(line["stage"], line["step"]) for line in lines]
    expected = [("train", 10), ("quantize", 16)]
    assert stages == [(name, n + 1) for name, steps in expected for n in range(steps)]
    learning = lines[10:]
    kl = [line["kl"] for line in learning]
    assert sum(kl[:4]) > sum(kl[-4:])
    assert [line["step"] for line in learning if "heldout_kl" in line] == [8, 16]
    assert (done.path / "checkpoints" / "quantize" / "step-000016").is_dir()


def test_the_report_shows_both_side_by_side(done: RunDirectory) -> None:
    page = build(done.path).read_text()
    assert "student-int3-distilled" in page and "KL(student ‖ few bits)" in page


@pytest.mark.parametrize("steps", [11, 20])
def test_a_run_that_was_stopped_ends_in_the_same_bits(done: RunDirectory, steps: int) -> None:
    again = done.path.parent / f"again-{steps}"
    recipe = load(done.path.parent / "recipe.yaml").model_copy(update={"output": again.name})
    with pytest.raises(Interrupted, match="stopped after step"):
        run(recipe, again.parent, stopping=SMALL["StopAfter"](steps))
    assert (again / "student").is_dir() and not (again / "student-int3-distilled").exists()
    other = run(recipe, again.parent)
    for name in ("student", "student-int3", "student-int3-distilled"):
        weights = [(each.path / name / "model.safetensors").read_bytes() for each in (done, other)]
        assert weights[0] == weights[1], name
    lines = [
        [(line["stage"], line["step"], line["loss"]) for line in map(json.loads, text.splitlines())]
        for text in ((each.path / "metrics.jsonl").read_text() for each in (done, other))
    ]
    assert lines[0] == lines[1]


def test_what_is_damaged_is_written_the_same_again(done: RunDirectory) -> None:
    copied = done.path.parent / "copied"
    shutil.copytree(done.path, copied)
    weights = copied / "student-int3-distilled" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1])
    (copied / "report.html").unlink()
    (copied / RUNNING).unlink(missing_ok=True)
    said: list[str] = []
    run(load(copied / "recipe.yaml"), copied, say=said.append)
    assert weights.read_bytes() == before
    assert any("kept as" in one for one in said)
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (done.path, copied)]
    assert metrics[0] == metrics[1]


def test_bits_without_gradients_are_refused(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    values = yaml.safe_load(recipe.read_text())
    values["quantize"] = {"scheme": "int8_dynamic", "distill": values["quantize"]["distill"]}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="drop distill"):
        load(recipe)
