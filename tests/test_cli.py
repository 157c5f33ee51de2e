"""The command line: help, exit codes, messages, and runs that are killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BertConfig, BertModel

from nexus.pipeline import run
from nexus.recipe.load import load

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
VERBS = ("quickstart", "distill", "evaluate", "prune", "report", "schema")
Said = tuple[int, str, str]
Nexus = Callable[..., Said]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


def process(*arguments: object) -> subprocess.Popen[str]:
    """The command as a user starts it."""
    command = [sys.executable, "-m", "nexus", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(started: subprocess.Popen[str]) -> Said:
    out, err = started.communicate(timeout=240)
    return started.returncode, out, err


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['nexus', '--help']\n"
        "from nexus.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'datasets', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(nexus: Nexus, verb: str) -> None:
    code, out, _ = nexus(verb, "--help")
    assert code == 0 and f"Example: nexus {verb}" in " ".join(out.split())


@pytest.mark.parametrize("arguments", [(), ("distil",), ("distill",), ("distill", "a", "--what")])
def test_a_wrong_command_is_wrong_usage(nexus: Nexus, arguments: tuple[str, ...]) -> None:
    code, _, err = nexus(*arguments)
    assert code == 2 and err and "Traceback" not in err


def test_schema_prints_the_schema(nexus: Nexus) -> None:
    code, out, _ = nexus("schema")
    assert code == 0 and {"teacher", "student", "data"} <= json.loads(out)["properties"].keys()


def test_a_reader_may_stop_reading() -> None:
    started = process("schema")
    assert started.stdout and started.stderr
    assert started.stdout.readline() == "{\n"
    started.stdout.close()
    assert started.wait(60) in (0, 1)
    assert started.stderr.read() == ""
    started.stderr.close()


def test_a_run_says_what_it_does_and_where_its_results_are(nexus: Nexus, recipe: Path) -> None:
    code, out, err = nexus("distill", recipe, "--set", "output=said")
    assert code == 0
    assert "train 4/4" in err and "KL(T=1)" in err and "agreement" in err
    for name in ("student", "report.html"):
        assert str(recipe.parent / "said" / name) in out
    assert nexus("distill", recipe, "--set", "output=said")[0] == 0
    report = recipe.parent / "said" / "report.html"
    page = report.read_text()
    report.unlink()
    code, out, _ = nexus("report", recipe.parent / "said")
    assert code == 0 and out.strip() == str(report) and report.read_text() == page


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "seed=5", "train.steps=1", "--set", "output=A"),
        ("--set", "seed=5", "--set", "train.steps=1", "--set", "output=A"),
        ("--set=seed=5", "--set=train.steps=1", "--set", "output=A", "--fresh"),
    ],
)
def test_set_takes_several_values_and_may_be_repeated(
    nexus: Nexus, recipe: Path, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    places = [argument.replace("=A", f"={tmp_path / 'run'}") for argument in arguments]
    code, _, err = nexus("distill", recipe, *places)
    assert code == 0, err
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert resolved["seed"] == 5 and resolved["train"]["steps"] == 1


def test_a_finished_run_stays_unless_it_is_to_be_fresh(nexus: Nexus, recipe: Path) -> None:
    command = ("distill", recipe, "--set", "output=again", "train.steps=1")
    assert nexus(*command)[0] == 0
    code, _, err = nexus(*command)
    assert code == 0 and "is finished: nothing to do. --fresh starts over" in err
    code, _, err = nexus(*command, "--set", "seed=1")
    assert code == 2 and "seed: 0 there, 1 now" in err
    assert nexus(*command, "--set", "seed=1", "--fresh")[0] == 0
    assert len(list(recipe.parent.glob("again-*"))) == 1


LINES = '{"text": "good"}\n' * 6 + '{"text": "bad\n' + '{"text": "good"}\n'

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "misspelt key": ("train.stepz=3", ["train.stepz", "did you mean 'steps'"]),
    "unknown kind": ("student.kind=prunned", ["student.kind", "prunned", "Known: pretrained"]),
    "missing data": (
        "data.sources.0.path=no.jsonl",
        ["no.jsonl", "no such file", "Correct the path"],
    ),
    "malformed line": (
        "data.sources.0.path=bad.jsonl",
        ["bad.jsonl:7", "not JSON", "Correct the row, or set data.on_bad_row: skip"],
    ),
    "empty data": (
        "data.sources.0.path=empty.jsonl",
        ["empty.jsonl", "is empty", "Name one that has rows"],
    ),
    "tokenizer of another size": (
        "student.model=larger",
        ["tokenizers of teacher and student differ", "'<new>'", "give the student the teacher's"],
    ),
    "tokenizer permuted": (
        "student.model=permuted",
        ["tokenizers of teacher and student differ", "token", "give the student the teacher's"],
    ),
    "row beyond the context": (
        "data.sequence_length=512 train.tokens_per_step=512",
        ["data.sequence_length is 512", "at most 256", "Set it to 256 or less"],
    ),
    "document beyond the row": (
        "data.sources.0.path=long.jsonl data.over_long=error",
        ["long.jsonl:1", "301 tokens", "over_long"],
    ),
    "temperature 0": ("objectives.0.temperature=0", ["temperature' is 0", "greater than 0"]),
    "negative weight": ("objectives.0.weight=-1", ["weight' is -1", "greater than or equal to 0"]),
    "negative share": ("data.weights={'': -1}", ["data.weights", "-1", "at least 0"]),
    "all weights 0": ("objectives.0.weight=0", ["weight 0", "raise one"]),
    "no causal language model": (
        "teacher.model=bert",
        ["'bert'", "BertModel", "not a causal language model", "name one"],
    ),
    "no tokenizer": (
        "teacher.model=bare",
        ["'bare' has no tokenizer", "tokenizer.save_pretrained"],
    ),
    "no such model": ("teacher.model=./nothing", ["./nothing", "no folder", "Correct the path"]),
    "more layers than there are": (
        "student={kind: layers, count: 9}",
        ["student.count", "9 layers", "the teacher has 4 layers"],
    ),
    "output inside a file": ("output=recipe.yaml/run", ["'output'", "recipe.yaml/run", "nother"]),
    "output is a file": ("output=train.jsonl", ["'output'", "train.jsonl", "nother"]),
    "output of someone else": ("output=teacher", ["'output'", "teacher", "holds no run"]),
    "no equals sign": ("train.steps", ["--set 'train.steps'", "key.subkey=value"]),
}


@pytest.fixture(scope="module")
def wrong(recipe: Path) -> Path:
    """The recipe in a folder where everything lies that the mistakes name."""
    folder = recipe.parent
    (folder / "bad.jsonl").write_text(LINES)
    (folder / "empty.jsonl").write_text("")
    SMALL["write_rows"](folder / "long.jsonl", [{"text": "x" * 300}])
    larger, permuted = SMALL["make_tokenizer"](), SMALL["make_tokenizer"]()
    larger.add_tokens(["<new>"])
    model = SMALL["make_model"](layers=1, seed=1, vocabulary=260)
    SMALL["save"](folder / "larger", model, larger)
    SMALL["save"](folder / "permuted", model, permuted)
    file = folder / "permuted" / "tokenizer.json"
    values = json.loads(file.read_text())
    letters = values["model"]["vocab"]
    letters["a"], letters["b"] = letters["b"], letters["a"]
    file.write_text(json.dumps(values))
    SMALL["save"](folder / "bert", BertModel(BertConfig(vocab_size=259, hidden_size=12)))
    model.save_pretrained(folder / "bare")
    return recipe


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_remedy_and_loses_nothing(
    nexus: Nexus, wrong: Path, name: str
) -> None:
    changes, words = MISTAKES[name]
    before = sorted(path.name for path in wrong.parent.iterdir())
    split = [changes] if "{" in changes else changes.split()
    output = [] if "output=" in changes else ["output=mistaken"]
    overrides = [word for change in [*output, *split] for word in ("--set", change)]
    code, _, err = nexus("distill", wrong, *overrides)
    assert code == 2, err
    assert "Traceback" not in err and err.startswith("nexus: ") or "\nnexus: " in err
    message = err[err.index("nexus: ") :]
    assert not [word for word in words if word not in message], message
    assert sorted(path.name for path in wrong.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["does not exist", "nexus quickstart DIR"]),
        ("teacher: [", ["not valid YAML"]),
        ("just words", ["holds no recipe"]),
        ("output: a\noutput: b", ["'output' stands here twice"]),
        ("output: run", ["'teacher' is missing", "'student' is missing", "'data' is missing"]),
    ],
)
def test_a_recipe_that_is_none(
    nexus: Nexus, tmp_path: Path, text: str | None, words: list[str]
) -> None:
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
    code, _, err = nexus("distill", tmp_path / "recipe.yaml")
    assert code == 2 and "recipe.yaml" in err
    assert not [word for word in words if word not in err], err


def test_a_report_of_what_is_no_run(nexus: Nexus, tmp_path: Path) -> None:
    code, _, err = nexus("report", tmp_path)
    assert code == 2 and f"{tmp_path} is not a run directory" in err


def test_a_full_disk_is_no_bug_of_ours(
    nexus: Nexus, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "student/model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr("nexus.hub.save", full)
        code, _, err = nexus("distill", recipe, "--set", "output=full", "train.steps=1")
    assert code == 75
    assert "student/model.safetensors" in err and "Make room. Run the same command again" in err
    assert nexus("distill", recipe, "--set", "output=full", "train.steps=1")[0] == 0


def test_a_bug_keeps_its_traceback(
    nexus: Nexus, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.pipeline.load", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        nexus("distill", recipe, "--set", "output=broken")


def test_a_mistake_has_no_traceback_in_a_real_process(recipe: Path) -> None:
    code, out, err = finish(process("distill", recipe, "--set", "train.stepz=3"))
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("nexus: ") and "Traceback" not in err


def test_killed_and_stopped_at_any_moment_it_ends_in_the_same_weights(recipe: Path) -> None:
    changes = ["train.steps=60", "train.save_every=5", "data.heldout=[]", "evaluate.samples=0"]
    whole = run(load(recipe, [*changes, "output=undisturbed"]), recipe.parent)
    command = ("distill", recipe, "--set", *changes, "output=disturbed")
    metrics = recipe.parent / "disturbed" / "metrics.jsonl"
    pause = random.Random(os.getpid())

    first = process(*command)
    _wait_for_steps(first, metrics, 12)
    time.sleep(pause.random() * 0.3)
    first.kill()
    assert finish(first)[0] == -signal.SIGKILL
    reached = len(metrics.read_text().splitlines())
    assert 12 <= reached < 60 and not whole.path.with_name("disturbed").joinpath("student").exists()

    second = process(*command)
    _wait_for_steps(second, metrics, reached + 6)
    second.terminate()
    asked = len(metrics.read_text().splitlines())
    code, _, err = finish(second)
    assert code == 75, err
    assert len(metrics.read_text().splitlines()) <= asked + 2  # the step at hand, no more
    assert "Run the same command again to continue" in err and "Traceback" not in err

    assert finish(process(*command))[0] == 0
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 61))
    ends = [recipe.parent / name / "student" for name in ("undisturbed", "disturbed")]
    one, two = (hashlib.sha256((end / "model.safetensors").read_bytes()).digest() for end in ends)
    assert one == two


def _wait_for_steps(started: subprocess.Popen[str], metrics: Path, steps: int) -> None:
    """Until so many steps are written. One that is started again first drops what it repeats."""
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and started.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            text = metrics.read_text()
            if metrics.stat().st_mtime_ns > before and text.count("\n") >= steps:
                return
        time.sleep(0.01)
    pytest.fail(f"no step {steps} in time: {finish(started)}")
