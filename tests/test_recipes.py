"""Every recipe that is shipped runs from end to end, with small things in place of large ones."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from nexus.pipeline import run
from nexus.recipe.load import dump, load
from nexus.recipe.schema import Recipe
from nexus.results import Evaluation
from nexus.rundir import RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))

ROWS = {
    "text": [{"text": text} for text in SMALL["sentences"](24)],
    "messages": [
        {
            "messages": [
                {"role": "user", "content": f"{a} + 1?"},
                {"role": "assistant", "content": f"{a + 1}"},
            ]
        }
        for a in range(24)
    ],
    "question": [{"question": f"{a} + 1?", "answer": f"{a + 1}"} for a in range(24)],
    "prompt": [{"prompt": f"def f{a}(", "completion": "): pass"} for a in range(24)],
}
LAYOUTS = {
    "HuggingFaceFW/fineweb-edu": "text",
    "HuggingFaceH4/no_robots": "messages",
    "openai/gsm8k": "question",
    "train.jsonl": "text",
    "heldout.jsonl": "text",
    "code.jsonl": "prompt",
    "code_heldout.jsonl": "prompt",
}
"""The columns of everything that the recipes name."""


CUT = ("pruned", "layers")
LITTLE = "calibration_tokens: 512"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    SMALL["write_workspace"](folder)
    for layout, rows in ROWS.items():
        SMALL["write_rows"](folder / f"{layout}.jsonl", rows[:12])
        SMALL["write_rows"](folder / f"{layout}_heldout.jsonl", rows[12:])
    return folder


def small(recipe: dict[str, Any], output: Path) -> list[str]:
    """`--set` arguments that put small models and rows in the place of large ones."""
    changes: dict[str, Any] = {
        "output": output,
        "teacher.model": "teacher",
        "data.sequence_length": 128,
        "evaluate.samples": 1,
        "evaluate.speed_seconds": 0,
        "check.stop": False,  # random models: no teacher is proved to be better
    }
    match recipe["student"]["kind"]:
        case "pretrained":
            changes["student.model"] = "student"
        case "scratch":
            changes["student.config"] = "student"
        case "layers":
            changes["student.count"] = 2
        case "pruned":
            changes["student"] = f"{{kind: pruned, shape: {{layers: 2, neurons: 32}}, {LITTLE}}}"
    changes |= small_cuts(recipe)
    for split in ("sources", "heldout"):
        for number, source in enumerate(recipe["data"][split]):
            layout = LAYOUTS[source.get("name") or source["path"]]
            task = f", task: {source['task']}" if "task" in source else ""
            name = f"{layout}_heldout" if split == "heldout" else layout
            changes[f"data.{split}.{number}"] = f"{{kind: jsonl, path: {name}.jsonl{task}}}"
    stages = [f"stages.{number}.train" for number in range(len(recipe.get("stages", [])))]
    if (recipe.get("quantize") or {}).get("distill"):
        stages = [*(stages or ["train"]), "quantize.distill.train"]
    for train in stages or ["train"]:
        changes |= {
            f"{train}.steps": 2,
            f"{train}.tokens_per_step": 256,
            f"{train}.warmup_steps": 0,
            f"{train}.dashboard": "none",
        }
    return [f"{key}={value}" for key, value in changes.items()]


def small_cuts(recipe: dict[str, Any]) -> dict[str, Any]:
    """Neurons in place of billions, where a stage cuts its student out of the one before."""
    shape = f"{{{{kind: pruned, shape: {{{{neurons: {{}}}}}}, multiple: 16, {LITTLE}}}}}"
    layers = f"{{kind: pruned, shape: {{layers: 2}}, {LITTLE}}}"
    cuts = [n for n, stage in enumerate(recipe.get("stages", [])) if "student" in stage]
    if cuts and recipe["student"]["kind"] == "pretrained":  # the teacher, to be corrected
        return {"student.model": "teacher", **{f"stages.{n}.student": layers for n in cuts}}
    changes = {f"stages.{n}.student": shape.format(64 - 16 * n) for n in cuts}
    return {"student": layers, **changes} if cuts else {}


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def finished(request: pytest.FixtureRequest, workspace: Path) -> tuple[str, Recipe, RunDirectory]:
    path: Path = request.param
    recipe = load(path, small(yaml.safe_load(path.read_text()), workspace / "runs" / path.stem))
    return path.stem, recipe, run(recipe, workspace)


Finished = tuple[str, Recipe, RunDirectory]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_as_it_is_and_names_its_own_run(path: Path, tmp_path: Path) -> None:
    recipe = load(path)
    assert recipe.output == f"runs/{path.stem}"
    assert f"nexus distill recipes/{path.name}" in path.read_text()
    (tmp_path / "resolved.yaml").write_text(dump(recipe))
    assert load(tmp_path / "resolved.yaml") == recipe


def test_a_recipe_runs_to_its_report(finished: Finished, workspace: Path) -> None:
    _, recipe, directory = finished
    steps = [
        json.loads(line) for line in (directory.path / "metrics.jsonl").read_text().splitlines()
    ]
    said = [(step["stage"], step["step"]) for step in steps]
    assert said == [(stage.name, step) for stage in recipe.all_training for step in (1, 2)]
    for stage in recipe.all_training:
        labels = {objective.label for objective in stage.objectives}
        assert all(step["terms"].keys() == labels for step in steps if step["stage"] == stage.name)
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None and evaluation.heldout is not None
    assert evaluation.heldout.trained.forward_kl is not None
    assert directory.is_finished and (directory.student / "README.md").is_file()


def test_its_student_is_an_ordinary_model_of_the_right_shape(
    finished: Finished, workspace: Path
) -> None:
    _, recipe, directory = finished
    student = AutoModelForCausalLM.from_pretrained(directory.student)
    teacher = AutoModelForCausalLM.from_pretrained(workspace / "teacher")
    assert student.config.num_hidden_layers == 2 < teacher.config.num_hidden_layers
    assert student.dtype == torch.float32
    assert not list(directory.student.glob("adapter*"))
    if recipe.student.kind == "pretrained" and not recipe.cascades:
        before = AutoModelForCausalLM.from_pretrained(workspace / "student")
        pairs = zip(student.parameters(), before.parameters(), strict=True)
        moved = [not torch.equal(after, earlier) for after, earlier in pairs]
        # An adapter moves the linear layers alone: neither embeddings nor norms.
        assert any(moved) and all(moved) == (recipe.all_stages[0].train.lora is None)


def test_what_is_cut_or_rounded_has_its_way_step_by_step(finished: Finished) -> None:
    name, recipe, directory = finished
    evaluation = Evaluation.load(directory.path)
    assert evaluation is not None
    kinds = [form.kind for form in evaluation.forms]
    if name == "pruned_quantised":
        assert kinds == ["teacher", "cut", "trained", "few_bits"]
        assert evaluation.forms[-1].bytes_on_disk and evaluation.forms[-1].change
        page = (directory.path / "report.html").read_text()
        assert "The cut cost" in page and "saved and loaded it gives the same logits" in page
    cuts = [recipe.student, *(stage.student for stage in recipe.stages)]
    pruned = [cut for cut in cuts if cut is not None and cut.kind == "pruned"]
    assert len(evaluation.cuts) == len(pruned)
    for record in evaluation.cuts:
        outcomes = {proof.name: proof.outcome for proof in record.proofs}
        assert outcomes["saved and loaded it gives the same logits"] == "proved"
    assert bool(kinds) == bool(
        recipe.quantize or recipe.teacher.scheme or any(cut and cut.kind in CUT for cut in cuts)
    )


def test_only_what_the_assistant_says_is_learnt(finished: Finished) -> None:
    name, _, directory = finished
    data = json.loads((directory.path / "environment.json").read_text())["data"]
    tokens, targets, documents = (
        sum(facts[key] for source, facts in data.items() if source.startswith("train"))
        for key in ("tokens", "target_tokens", "examples")
    )
    if name in ("chat", "lora"):
        # "1" or "10", and <|im_end|>.
        assert targets == sum(len(str(a + 1)) + 1 for a in range(12))
        assert tokens > 5 * targets
    elif name != "mixture":
        assert targets == tokens - documents  # all but the first token of each
