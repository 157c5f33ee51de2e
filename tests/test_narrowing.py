"""A run whose student knows fewer tokens learns from the teacher renormalised to them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus.errors import UsageError
from nexus.evaluating import evaluate
from nexus.examination import Request
from nexus.hub import load_config, load_tokenizer
from nexus.kernels.lm_head import head_rows
from nexus.narrowing import fewer_tokens
from nexus.pipeline import run
from nexus.recipe.load import load as load_recipe
from nexus.rundir import RunDirectory
from nexus.scene import load_batches
from nexus.training.parallel import Parallel

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
CUTS: list[dict[str, Any]] = [
    {"vocabulary": 320},
    {"vocabulary": "used", "target": 0.7, "multiple": 8, "repair": False},
]


LITTLE = {"calibration_tokens": 512}


def recipe_of(folder: Path, **student: Any) -> Any:
    path = SMALL["write_workspace"](folder)
    SMALL["save"](folder / "teacher", *SMALL["with_words"]())
    content = {**SMALL["RECIPE"], "student": {"kind": "pruned", **LITTLE, **student}}
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def told_of(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("student", CUTS, ids=["alone", "within a budget"])
def test_a_run_ends_in_a_student_with_its_own_tokenizer(
    tmp_path: Path, student: dict[str, Any]
) -> None:
    recipe = recipe_of(tmp_path, **student)
    done = run(recipe, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(done.student)
    model: Any = AutoModelForCausalLM.from_pretrained(done.student)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
    whole = sum(one.numel() for one in teacher.parameters())
    part = sum(one.numel() for one in model.parameters())
    assert len(tokenizer) == head_rows(model) <= head_rows(teacher)
    assert "target" not in student or abs(part / whole / 0.7 - 1) < 0.02
    ids = tokenizer("The word", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(model.generate(ids, max_new_tokens=2)[0]).startswith("The word")
    told = told_of(done.path / "evaluation.json")
    assert told["size"]["teacher"]["parameters"] == whole
    asked = Request(str(done.path), speed_seconds=0.0)
    again = evaluate(asked, say=lambda text: None).evaluation
    assert again.heldout is not None and again.size["teacher"].parameters == whole
    ours, theirs = again.heldout.model_dump(mode="json")["trained"], told["heldout"]["trained"]
    for name in ("forward_kl", "bits_per_byte"):
        assert ours[name]["value"] == pytest.approx(theirs[name]["value"], rel=1e-3, abs=1e-9)
    notices = " ".join(told_of(done.path / "environment.json")["notices"])
    assert "the teacher renormalised to these" in notices and "Bits per byte" in notices
    assert "Proved of tokenizer and teacher: " in notices
    assert "with fewer tokens it has as many parameters as they say" in notices
    checked = {one["name"]: one for one in told_of(done.path / "check.json")["proofs"]}
    better = checked["the teacher predicts held-out text better than the untrained student"]
    assert ("is the teacher itself" in better["detail"]) == ("target" not in student)
    assert "renormalised to these" in (done.path / "report.html").read_text()


def test_with_all_tokens_nothing_changes(tmp_path: Path) -> None:
    """What is kept whole is distilled as it would be without the option."""
    results = []
    for name, student in (("plain", {"target": 0.8}), ("kept", {"target": 0.8, "vocabulary": 400})):
        folder = tmp_path / name
        done = run(recipe_of(folder, multiple=8, repair=False, **student), folder)
        results.append(AutoModelForCausalLM.from_pretrained(done.student).state_dict())
    one, other = results
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key])


def test_a_later_stage_cannot_cut_the_vocabulary(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, target=0.8)
    stage = {key: getattr(recipe, key) for key in ("objectives", "train")}
    dumped = recipe.model_dump()
    for key in stage:
        stage[key] = dumped.pop(key)
    later = {"kind": "pruned", "target": 0.8, "vocabulary": 300}
    stages = [{"name": "one", **stage}, {"name": "two", "student": later, **stage}]
    with pytest.raises(UsageError, match=r"'two': student\.vocabulary is cut once"):
        type(recipe).parse(dumped | {"stages": stages})


def test_what_generation_names_is_kept(tmp_path: Path) -> None:
    """As the second word that ends a text, which the model's own configuration may not know.

    To see it fail: in narrowing.fewer_tokens, leave `writes` out.
    """
    recipe = recipe_of(tmp_path, vocabulary=300)

    def kept() -> set[int]:
        config = load_config(recipe.teacher, tmp_path)
        tokenizer = load_tokenizer(recipe.teacher, tmp_path)
        directory = RunDirectory(tmp_path / "run")
        text = (recipe, recipe.all_stages[0], tmp_path, tokenizer, None, Parallel(), directory)
        found = fewer_tokens(recipe, config, tokenizer, load_batches(*text), tmp_path)
        return set(found.ids.tolist()) if found else set()

    rare = max(set(range(400)) - kept())
    file = tmp_path / "teacher" / "generation_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"eos_token_id": [said["eos_token_id"], rare]}))
    assert rare in kept()


def test_what_cannot_be_cut_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, vocabulary=20)
    with pytest.raises(UsageError, match="nearest possible is 259") as error:
        run(recipe, tmp_path)
    assert "\n" not in str(error.value)
