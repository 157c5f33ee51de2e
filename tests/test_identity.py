"""A run goes on with what it was begun with, or with what it is told may be another."""

from __future__ import annotations

import hashlib
import html
import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import Interrupted, UsageError
from nexus.identity import NAMES, check_names
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.report.build import build
from nexus.rundir import RunDirectory

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
QUICK = ("data.heldout=[]", "evaluate.samples=0")


def distil(folder: Path, *changes: str, **arguments: Any) -> RunDirectory:
    return run(load(folder / "recipe.yaml", [*QUICK, *changes]), folder, **arguments)


def weights(directory: RunDirectory) -> str:
    return hashlib.sha256((directory.student / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace with a run that was stopped half-way, and what it would have come to."""
    folder = tmp_path_factory.mktemp("identity") / "workspace"
    SMALL["write_workspace"](folder)
    whole = weights(distil(folder, "output=whole"))
    with pytest.raises(Interrupted):
        distil(folder, stopping=SMALL["StopAfter"](2))
    return folder, whole


@pytest.fixture
def workspace(stopped: tuple[Path, str], tmp_path: Path) -> Path:
    """The same elsewhere: a workspace that is moved as a whole is the same."""
    return Path(shutil.copytree(stopped[0], tmp_path / "workspace"))


def flip(file: Path) -> None:
    """The last bit but a few: one weight, by the least there is."""
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)


def lower(folder: Path) -> None:
    for name in ("teacher", "student"):
        file = folder / name / "tokenizer.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, "normalizer": {"type": "Lowercase"}}))


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def exchange(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))


@dataclass(frozen=True)
class Case:
    change: Callable[[Path], object]
    both: str
    """What the message says of both values."""
    overrides: tuple[str, ...] = ()


HASHES = r"{}: [0-9a-f]{{12}} there, [0-9a-f]{{12}} now"

CASES = {
    "teacher": Case(
        lambda folder: flip(folder / "teacher" / "model.safetensors"), HASHES.format("teacher")
    ),
    "student": Case(
        lambda folder: flip(folder / "student" / "model.safetensors"), HASHES.format("student")
    ),
    "tokenizer": Case(lower, HASHES.format("tokenizer")),
    "chat_template": Case(
        lambda folder: [
            add(folder / name / "chat_template.jinja", "!") for name in ("teacher", "student")
        ],
        HASHES.format("chat_template"),
    ),
    "data": Case(
        lambda folder: exchange(folder / "train.jsonl", "the", "The"), HASHES.format("data")
    ),
    "recipe": Case(
        lambda folder: None,
        r"recipe.train.learning_rate: 0.003 there, 0.004 now",
        ("train.learning_rate=0.004",),
    ),
    "versions": Case(
        lambda folder: exchange(
            folder / "run" / "environment.json", '"transformers": "', '"transformers": "0.'
        ),
        r"versions.transformers: 0\.\S+ there, \S+ now",
    ),
}


def test_there_is_a_case_for_every_name() -> None:
    assert tuple(CASES) == NAMES


def test_every_change_is_refused_with_both_values_and_nothing_is_lost(
    stopped: tuple[Path, str], workspace: Path
) -> None:
    """To see it fail, drop a fingerprint in `scene.made_of` or `scene.models_of`."""
    kept = shutil.copytree(workspace, workspace.with_name("kept"))
    for name, case in CASES.items():
        case.change(workspace)
        before = contents(workspace / "run")
        with pytest.raises(UsageError, match=case.both) as caught:
            distil(workspace, *case.overrides)
        assert caught.value.exit_code == 2
        for remedy in ("Undo the change", f"--allow-changed {name}", "--fresh"):
            assert remedy in str(caught.value)
        assert contents(workspace / "run") == before
        shutil.rmtree(workspace)
        shutil.copytree(kept, workspace)
    assert weights(distil(workspace)) == stopped[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_an_allowed_change_goes_on_and_is_recorded(workspace: Path, name: str) -> None:
    case = CASES[name]
    case.change(workspace)
    recorded = json.loads((workspace / "run" / "environment.json").read_text())
    directory = distil(workspace, *case.overrides, allow_changed=(name,))
    environment = json.loads((directory.path / "environment.json").read_text())
    own = [change for change in environment["changes"] if change["name"] == name]
    assert [(change["stage"], change["step"]) for change in own] == [("train", 2)]
    before, now = own[0]["before"], own[0]["now"]
    assert before != now and own[0]["time"]
    if name in recorded["fingerprints"]:
        assert recorded["fingerprints"][name].startswith(before)
        assert environment["fingerprints"][name].startswith(now)
    page = html.unescape(directory.report.read_text())
    assert f"step 2 of stage 'train' on the run had another {own[0]['what']}: {now}" in page
    assert f"allowed by --allow-changed {name}" in page
    assert [json.loads(line)["step"] for line in _lines(directory)] == [1, 2, 3, 4]


def _lines(directory: RunDirectory) -> list[str]:
    return (directory.path / "metrics.jsonl").read_text().splitlines()


def test_one_message_names_all_that_changed(workspace: Path) -> None:
    changed = ("teacher", "data", "recipe", "versions")
    for name in changed:
        CASES[name].change(workspace)
    with pytest.raises(UsageError) as caught:
        distil(workspace, *CASES["recipe"].overrides)
    message = str(caught.value)
    assert "another recipe, teacher, data and versions" in message
    assert not [name for name in changed if f"--allow-changed {name}" not in message]
    with pytest.raises(UsageError) as caught:
        distil(workspace, *CASES["recipe"].overrides, allow_changed=("teacher", "data", "recipe"))
    assert "versions.transformers" in str(caught.value) and "teacher" not in str(caught.value)


def test_what_was_allowed_once_is_what_the_run_is_from_then_on(workspace: Path) -> None:
    CASES["teacher"].change(workspace)
    with pytest.raises(Interrupted):
        distil(workspace, allow_changed=("teacher", "data"), stopping=SMALL["StopAfter"](1))
    with pytest.raises(Interrupted):
        distil(workspace, stopping=SMALL["StopAfter"](0))
    environment = json.loads((workspace / "run" / "environment.json").read_text())
    assert [change["name"] for change in environment["changes"]] == ["teacher"]
    CASES["teacher"].change(workspace)  # back to the first
    with pytest.raises(UsageError, match=CASES["teacher"].both):
        distil(workspace)


def test_a_mistake_names_a_changed_recipe_along(workspace: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file(.|\n)*recipe.data.sources.0.path: '../t"):
        distil(workspace, "data.sources.0.path=nowhere.jsonl")


def test_weights_are_compared_before_they_are_loaded(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CASES["teacher"].change(workspace)
    monkeypatch.setattr("nexus.hub.load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UsageError, match=CASES["teacher"].both):
        distil(workspace)


def test_it_is_the_same_run_wherever_the_command_is_given_and_from_its_own_recipe(
    stopped: tuple[Path, str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace / "teacher")
    with pytest.raises(Interrupted):
        run(
            load(Path("../recipe.yaml"), QUICK), Path(".."), stopping=SMALL["StopAfter"](1)
        )  # fmt: skip
    own = workspace / "run"
    assert weights(run(load(own / "recipe.yaml"), own)) == stopped[1]


def test_what_may_change_is_recorded_without_being_asked_for(workspace: Path) -> None:
    exchange(workspace / "run" / "environment.json", '"processes": 1', '"processes": 2')
    exchange(workspace / "run" / "environment.json", '"numpy": "', '"numpy": "0.')
    environment = json.loads((distil(workspace).path / "environment.json").read_text())
    assert {change["what"] for change in environment["changes"]} == {
        "hardware.processes",
        "versions.numpy",
    }


def test_a_finished_run_is_not_compared_but_for_its_recipe(workspace: Path) -> None:
    distil(workspace)
    CASES["teacher"].change(workspace)
    said: list[str] = []
    assert distil(workspace, say=said.append).is_finished
    assert "is finished: nothing to do" in said[0]
    with pytest.raises(UsageError, match="recipe.seed: 0 there, 1 now"):
        distil(workspace, "seed=1")


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    check_names(NAMES)
    with pytest.raises(UsageError) as caught:
        check_names(("teecher",))
    assert "did you mean 'teacher'" in str(caught.value)
    assert not [name for name in NAMES if name not in str(caught.value)]


def test_what_has_not_changed_may_be_allowed_to(stopped: tuple[Path, str], workspace: Path) -> None:
    directory = distil(workspace, allow_changed=NAMES)
    assert weights(directory) == stopped[1]
    assert json.loads((directory.path / "environment.json").read_text())["changes"] == []


def test_models_in_memory_are_compared_too(workspace: Path) -> None:
    from nexus.scene import Models

    def models(seed: int) -> Any:
        return Models(
            SMALL["make_model"](layers=4, seed=seed),
            SMALL["make_model"](layers=2, seed=2),
            SMALL["make_tokenizer"](),
        )

    with pytest.raises(Interrupted):
        distil(workspace, "output=memory", models=models(1), stopping=SMALL["StopAfter"](2))
    with pytest.raises(UsageError, match=CASES["teacher"].both):
        distil(workspace, "output=memory", models=models(3))
    assert distil(workspace, "output=memory", models=models(1)).is_finished


def test_an_early_report_does_not_end_a_run(stopped: tuple[Path, str], workspace: Path) -> None:
    build(workspace / "run")
    assert weights(distil(workspace)) == stopped[1]
