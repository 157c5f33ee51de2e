"""A whole run: what it leaves behind, that it can be repeated, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel

from nexus.errors import UsageError
from nexus.pipeline import open_directory, run, withdraw
from nexus.recipe.load import differences, load
from nexus.recipe.relocate import relocate
from nexus.results import Evaluation
from nexus.rundir import RunDirectory
from nexus.training.parallel import Parallel

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path) -> RunDirectory:
    return distil(recipe, "output=finished", "evaluate.speed_seconds=0.2")


def distil(recipe: Path, *changes: str, **arguments: Any) -> RunDirectory:
    return run(load(recipe, changes), recipe.parent, **arguments)


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Contents and times of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(run: RunDirectory) -> str:
    return hashlib.sha256((run.student / "model.safetensors").read_bytes()).hexdigest()


def test_the_run_directory_holds_what_is_promised(finished: RunDirectory, recipe: Path) -> None:
    there = {path.name for path in finished.path.iterdir() if not path.name.startswith(".")}
    assert there >= {
        *("recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints"),
        *("student", "evaluation.json", "report.html"),
    }
    asked = load(recipe, ["output=finished", "evaluate.speed_seconds=0.2"])
    resolved = load(finished.recipe_file)
    assert differences(relocate(resolved, finished.path, recipe.parent), asked) == [
        ("train.compile", False, "auto")
    ]
    environment = json.loads((finished.path / "environment.json").read_text())
    assert environment["seed"] == 0 and environment["versions"]["torch"] == torch.__version__
    assert environment["fingerprints"].keys() >= {"teacher", "tokenizer", "data"}
    steps = [
        json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    wanted = {"loss", "terms", "kl", "agreement", "targets", "tokens_per_second", "learning_rate"}
    assert all(step.keys() >= wanted | {"gradient_norm"} for step in steps)
    assert (finished.path / "checkpoints" / "train" / "step-000004").is_dir()
    evaluation = Evaluation.load(finished.path)
    assert (
        evaluation is not None and evaluation.heldout is not None and evaluation.speed is not None
    )
    assert evaluation.heldout.documents >= 10 and len(evaluation.samples) == 1
    assert evaluation.size["student"].parameters < evaluation.size["teacher"].parameters
    assert not list(finished.path.rglob("*.pt")) + list(finished.path.rglob("*.pkl"))


def test_the_report_asks_nothing_of_a_network(finished: RunDirectory) -> None:
    page = finished.report.read_text()
    assert not re.findall(r"""(?i)(?:src|srcset|action|data)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(
        r"""(?i)<(?:script|link|iframe|object|embed|base)\b|@import|url\((?!['"]?#)""", page
    )
    assert "<svg" in page


def test_the_student_needs_nothing_of_ours(finished: RunDirectory) -> None:
    program = (
        "import sys\n"
        "sys.modules['nexus'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('Assert statements', return_tensors='pt')\n"
        "out = model.generate(**ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)\n"
        "assert model.config.use_cache and tokenizer.chat_template\n"
        "print(out.shape[1] - ids['input_ids'].shape[1])\n"
    )
    command = [sys.executable, "-c", program, str(finished.student)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "5", done.stderr


def test_the_student_is_closer_to_its_teacher_than_before(recipe: Path) -> None:
    evaluation = Evaluation.load(distil(recipe, "output=longer", "train.steps=16").path)
    assert evaluation is not None and evaluation.heldout is not None
    before, after = evaluation.heldout.untrained, evaluation.heldout.trained
    assert before is not None and before.forward_kl is not None and after.forward_kl is not None
    assert after.forward_kl.value < 0.8 * before.forward_kl.value


def test_a_finished_run_again_does_nothing_and_says_so(
    finished: RunDirectory, recipe: Path
) -> None:
    before, said = files(finished.path), []
    again = distil(recipe, "output=finished", "evaluate.speed_seconds=0.2", say=said.append)
    assert again == finished and files(finished.path) == before
    assert said == [f"{finished.path} is finished: nothing to do. --fresh starts over"]


def test_the_same_recipe_gives_the_same_weights(finished: RunDirectory, recipe: Path) -> None:
    assert weights(distil(recipe, "output=second")) == weights(finished)
    assert weights(distil(recipe, "output=third", "seed=1")) != weights(finished)


def test_micro_batches_change_nothing_that_can_be_told(
    finished: RunDirectory, recipe: Path
) -> None:
    other = distil(recipe, "output=rows", "train.micro_batch_rows=2")
    pairs = zip(
        AutoModelForCausalLM.from_pretrained(finished.student).parameters(),
        AutoModelForCausalLM.from_pretrained(other.student).parameters(),
        strict=True,
    )
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_run_killed_while_it_evaluates_goes_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nexus.pipeline.evaluate", die)
        with pytest.raises(KeyboardInterrupt):
            distil(recipe, "output=killed")
    student = files(recipe.parent / "killed" / "student")
    directory = distil(recipe, "output=killed")
    assert directory.is_finished
    assert files(directory.student).items() >= {k: v for k, v in student.items()}.items()


def test_a_changed_recipe_is_refused(finished: RunDirectory, recipe: Path) -> None:
    before = files(finished.path)
    with pytest.raises(UsageError, match=r"(?s)seed: 0 there, 1 now.*--fresh"):
        distil(recipe, "output=finished", "evaluate.speed_seconds=0.2", "seed=1")
    assert files(finished.path) == before


def test_fresh_keeps_the_old_run_aside(recipe: Path) -> None:
    old = distil(recipe, "output=renewed", "train.steps=1")
    before = {name: contents for name, (contents, _) in files(old.path).items()}
    distil(recipe, "output=renewed", "train.steps=2", fresh=True)
    (aside,) = recipe.parent.glob("renewed-*")
    assert {name: contents for name, (contents, _) in files(aside).items()} == before


def test_what_is_refused_before_the_first_step_can_be_mended(recipe: Path) -> None:
    """The run directory is not left behind as one of another recipe."""
    for wrong in ("data.sources.0.path=nowhere.jsonl", "train.lora={targets: [nothing]}"):
        with pytest.raises(UsageError):
            distil(recipe, "output=mended", wrong)
        assert not (recipe.parent / "mended").exists()
    assert distil(recipe, "output=mended", "train.steps=1").is_finished


def test_a_run_that_was_trained_is_never_withdrawn(finished: RunDirectory) -> None:
    before = files(finished.path)
    withdraw(replace(finished, begun_here=True))
    assert files(finished.path) == before


def test_only_the_first_process_makes_the_directory(recipe: Path, tmp_path: Path) -> None:
    parsed, first = load(recipe), Parallel()
    waited = []

    def wait(self: Parallel) -> None:
        if self.rank == 1:
            waited.append(open_directory(tmp_path / "run", parsed, tmp_path, first))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parallel, "wait", wait)
        other = Parallel(rank=1, world=2)
        directory = open_directory(tmp_path / "run", parsed, tmp_path, other)
    assert waited == [directory]
    assert directory.recipe_file.is_file()


@pytest.mark.parametrize("rows", [64, 32])
def test_a_student_of_shorter_context_is_refused(recipe: Path, rows: int) -> None:
    short = SMALL["make_model"](layers=1, seed=3)
    short.config.max_position_embeddings = 64
    SMALL["save"](recipe.parent / "short", short)
    length = (f"data.sequence_length={2 * rows}", f"train.tokens_per_step={4 * rows}")
    change = ("student.model=short", "output=short-run", "train.steps=1", *length)
    if rows == 32:
        assert distil(recipe, *change).is_finished
        return
    with pytest.raises(UsageError, match="sequence_length is 128, but the models take at most 64"):
        distil(recipe, *change)


def test_mistakes_show_before_weights_are_loaded(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.hub.load_model", lambda *_: pytest.fail("weights were loaded"))
    permuted = SMALL["make_tokenizer"]()
    SMALL["save"](
        recipe.parent / "bert", BertModel(BertConfig(vocab_size=259, hidden_size=12)), permuted
    )
    for wrong in ("data.sources.0.path=nowhere.jsonl", "teacher.model=bert", "student.model=bert"):
        with pytest.raises(UsageError):
            distil(recipe, "output=early", wrong)


def test_two_processes_take_the_steps_of_one(finished: RunDirectory, recipe: Path) -> None:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("-m", "nexus", "distill", str(recipe), "--set", "output=two"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reading and tokenising data") == 1
    pairs = zip(
        AutoModelForCausalLM.from_pretrained(finished.student).parameters(),
        AutoModelForCausalLM.from_pretrained(recipe.parent / "two" / "student").parameters(),
        strict=True,
    )
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
