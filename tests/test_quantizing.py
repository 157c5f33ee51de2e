"""A recipe that quantises its student: written, measured, shown; the same again if it resumes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus import hub
from nexus.errors import UsageError
from nexus.pipeline import run
from nexus.quantization.linear import PackedLinear
from nexus.recipe.load import load
from nexus.report.build import build
from nexus.results import Evaluation
from nexus.rundir import RunDirectory

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
SETTINGS: dict[str, Any] = {
    "quantize": {"scheme": "int4", "group_size": 32},
    "train": {"steps": 1, "tokens_per_step": 128},
    "evaluate": {"rollouts": 0},
}


def written(folder: Path, **changes: Any) -> Path:
    recipe: Path = SMALL["write_workspace"](folder)
    values = yaml.safe_load(recipe.read_text())
    for key, value in (SETTINGS | changes).items():
        values[key] = {**values.get(key, {}), **value}
    recipe.write_text(yaml.safe_dump(values))
    return recipe


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    recipe = written(tmp_path_factory.mktemp("quantized"))
    return run(load(recipe), recipe.parent)


def test_the_student_lies_there_in_few_bits(done: RunDirectory) -> None:
    folder = done.path / "student-int4"
    facts = json.loads((folder / "quantization.json").read_text())
    assert facts["layers"] == 14 and facts["proofs"][0]["value"] == 0
    model = hub.load_model(hub.ModelSource(model=str(folder), dtype="auto"), Path())
    assert isinstance(model.get_submodule("model.layers.0.mlp.up_proj"), PackedLinear)
    student = hub.load_model(hub.ModelSource(model=str(done.student)), Path())
    exact = student.get_submodule("model.layers.0.mlp.up_proj").weight.detach()
    values = model.get_submodule("model.layers.0.mlp.up_proj").grid().values()
    assert float((values - exact).norm() / exact.norm()) < 0.15


def test_what_it_cost_is_measured_beside_teacher_and_student(done: RunDirectory) -> None:
    evaluation = Evaluation.load(done.path)
    assert evaluation is not None and evaluation.heldout is not None
    found = evaluation.quantized
    assert found is not None and found.to_student is not None and found.to_teacher is not None
    assert found.to_student.forward_kl is not None and found.to_student.forward_kl.value > 0
    assert found.perplexity_ratio is not None
    trained = evaluation.heldout.trained
    assert found.to_teacher.forward_kl is not None and trained.forward_kl is not None
    change = found.to_teacher.forward_kl.value - trained.forward_kl.value
    assert found.change["forward_kl"].value == pytest.approx(change, abs=1e-6)
    ratio = found.to_teacher.perplexity.value / trained.perplexity.value
    assert found.perplexity_ratio.value == pytest.approx(ratio, rel=1e-4)
    size = evaluation.size["student"]
    assert found.size.parameters == size.parameters
    assert (found.size.bytes_on_disk or 0) < (size.bytes_on_disk or 0) / 2


def test_the_report_shows_it(done: RunDirectory) -> None:
    page = build(done.path).read_text()
    assert 'id="few-bits"' in page and "student-int4" in page and "KL(student ‖ few bits)" in page


def test_what_was_written_is_written_the_same_again(done: RunDirectory) -> None:
    weights = done.path / "student-int4" / "model.safetensors"
    before = weights.read_bytes()
    recipe = load(done.recipe_file)
    weights.write_bytes(before[:-1])  # damaged
    done.report.unlink()
    said: list[str] = []
    run(recipe, done.path, say=said.append)
    assert weights.read_bytes() == before
    assert any("kept as" in one for one in said)


def test_what_cannot_be_quantised_is_refused_before_the_first_step(tmp_path: Path) -> None:
    recipe = written(tmp_path, quantize={"scheme": "int4", "group_size": 48})
    with pytest.raises(UsageError, match="choose 32, 16, 8"):
        run(load(recipe), tmp_path)
    assert not (tmp_path / "run").exists()


def test_layers_that_do_not_fit_are_said_beforehand_and_are_findings(tmp_path: Path) -> None:
    recipe = written(tmp_path, quantize={"scheme": "int4", "group_size": 64})
    said: list[str] = []
    directory = run(load(recipe), tmp_path, say=said.append)
    (warning,) = (number for number, text in enumerate(said) if "12 layers will stay whole" in text)
    assert warning < next(number for number, text in enumerate(said) if "untrained" in text)
    found = json.loads((directory.path / "findings.json").read_text())
    named = [one["what"] for one in found if "is not quantised" in one["what"]]
    assert len(named) == 12 and "rows of 32" in named[0]
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.quantized is not None
    assert evaluation.quantized.layers == 2 and len(evaluation.quantized.kept) == 13


@pytest.mark.parametrize("bad", [{"scheme": "int5"}, {"scheme": "int4", "group": 3}])
def test_mistakes_are_named(tmp_path: Path, bad: dict[str, Any]) -> None:
    recipe = SMALL["write_workspace"](tmp_path)
    values = yaml.safe_load(recipe.read_text()) | {"quantize": bad}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match=r"quantize\.(scheme|group)"):
        load(recipe)
