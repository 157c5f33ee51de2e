"""Whatever of a run is damaged, the same command leads to the very same student, and says so."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from nexus import durable, findings
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.rundir import RunDirectory
from nexus.training import loop, space

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
MEASURED = {"seconds", "tokens_per_second", "peak_memory_gib"}

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages with adapters and dropout, which save before steps 1 and 3 and at the end."""
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    values = yaml.safe_load(path.read_text())
    train = {**values.pop("train"), "steps": 3, "lora": {"rank": 2, "dropout": 0.1}}
    objectives = values.pop("objectives")
    values["stages"] = [
        {"name": name, "objectives": objectives, "train": train} for name in ("first", "second")
    ]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path) -> RunDirectory:
    return distil(recipe)


@pytest.fixture
def copy(finished: RunDirectory, recipe: Path, tmp_path: Path) -> Path:
    """The recipe of a workspace in which the run is finished."""
    for path in recipe.parent.iterdir():
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name)
        else:
            shutil.copy(path, tmp_path)
    return tmp_path / recipe.name


def distil(recipe: Path, say: Callable[[str], None] = lambda text: None) -> RunDirectory:
    return run(load(recipe), recipe.parent, say=say)


def forget_the_end(place: Path) -> None:
    """As if the run had been killed when its training was done."""
    shutil.rmtree(place / "student")
    for name in ("evaluation.json", "report.html"):
        (place / name).unlink()


def outcome(place: Path) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """Weights, metrics and evaluation, times apart."""
    lines = (place / "metrics.jsonl").read_text().splitlines()
    steps = [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]
    evaluation = json.loads((place / "evaluation.json").read_text())
    return (place / "student" / "model.safetensors").read_bytes(), steps, evaluation


def damage(checkpoint: Path) -> None:
    file = checkpoint / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("bad", "trained"),
    [
        ([], []),
        (["second/step-000003"], [("second", 3)]),
        (["second/*"], [("second", 1), ("second", 2), ("second", 3)]),
        (["first/*"], []),
        (["second/*", "first/step-000003"], [("first", 3), *(("second", s) for s in (1, 2, 3))]),
        (["second/*", "first/*"], [(name, s) for name in ("first", "second") for s in (1, 2, 3)]),
    ],
    ids=["none", "newest", "second stage", "first stage", "all but one", "all"],
)
def test_damaged_checkpoints_cost_time_and_nothing_else(
    finished: RunDirectory,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: list[str],
    trained: list[tuple[str, int]],
) -> None:
    """Only the steps since the newest good one are made again, stages that are done are not."""
    place = copy.parent / "run"
    forget_the_end(place)
    spoilt = [path for pattern in bad for path in place.glob(f"checkpoints/{pattern}")]
    for path in spoilt:
        damage(path)
    made, said = list[tuple[str, int]](), list[str]()
    take_step = loop.take_step

    def counted(stage: Any, wrapped: Any, optimizer: Any, step: int, *rest: Any) -> Any:
        made.append((stage.name, step + 1))
        return take_step(stage, wrapped, optimizer, step, *rest)

    monkeypatch.setattr(loop, "take_step", counted)
    distil(copy, said.append)
    assert made == trained
    assert outcome(place) == outcome(finished.path)
    looked_at = [path for path in spoilt if path.parent.name == "second" or trained]
    noticed = findings.read(place)
    assert len(noticed) == len(looked_at) == sum("is damaged and not used" in s for s in said)
    assert {(note.stage, note.step) for note in noticed} == {
        (path.parent.name, int(path.name[-6:])) for path in looked_at
    }


def test_content_that_is_no_checkpoint_is_found_out_when_it_is_read(
    finished: RunDirectory, copy: Path
) -> None:
    """A good manifest vouches for bytes alone."""
    place = copy.parent / "run"
    forget_the_end(place)
    newest = place / "checkpoints/second/step-000003"
    with durable.directory(newest) as aside:
        for file in newest.iterdir():
            shutil.copy(file, aside)
        (aside / "state.json").write_text("[1, 2]")
    distil(copy)
    assert outcome(place) == outcome(finished.path)
    assert [note.step for note in findings.read(place)] == [3]


@pytest.mark.parametrize("name", ["model.safetensors", durable.MANIFEST])
def test_a_damaged_student_is_saved_again(finished: RunDirectory, copy: Path, name: str) -> None:
    """Also after the end: a finished run is one that is whole."""
    place = copy.parent / "run"
    content = bytearray((place / "student" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (place / "student" / name).write_bytes(content)
    said: list[str] = []
    distil(copy, said.append)
    assert outcome(place) == outcome(finished.path)
    assert any("The student is saved again" in text for text in said)
    assert (place / "quarantine-student" / name).read_bytes() == bytes(content)


@pytest.mark.parametrize("name", ["evaluation.json", "report.html", "student/README.md"])
def test_what_is_missing_at_the_end_is_made_again(
    finished: RunDirectory, copy: Path, name: str
) -> None:
    place = copy.parent / "run"
    before = (place / name).read_bytes()
    (place / name).write_bytes(b"") if name == "evaluation.json" else (place / name).unlink()
    assert distil(copy).is_finished
    assert (place / name).exists() and outcome(place) == outcome(finished.path)
    assert name != "evaluation.json" or (place / name).read_bytes() == before


def test_damaged_measurements_of_the_untrained_student_are_taken_again(
    finished: RunDirectory, copy: Path
) -> None:
    """One flipped bit in a number would otherwise be believed for ever."""
    place = copy.parent / "run"
    file = place / "untrained.npy"
    whole = bytearray(file.read_bytes())
    forget_the_end(place)
    file.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    said: list[str] = []
    distil(copy, said.append)
    assert f"{file} is not what was written: its SHA-256 differs" in said
    assert outcome(place) == outcome(finished.path) and file.read_bytes() == whole


def test_a_student_holds_what_a_plain_checkpoint_holds(finished: RunDirectory) -> None:
    """And a manifest, which vouches for it to whoever copies it, and which no library reads."""
    assert {path.name for path in finished.student.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("README.md", durable.MANIFEST),
    }
    durable.verify(finished.student)
    manifest = json.loads((finished.student / durable.MANIFEST).read_text())["files"]
    assert "README.md" not in manifest and "model.safetensors" in manifest


def test_what_cannot_fit_is_refused_and_leaves_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UsageError, match=r"needs [\d,]+ bytes more .* 1,000 bytes are free"):
        run(load(recipe, [f"output={tmp_path}/small"]), recipe.parent)
    assert not (tmp_path / "small").exists()


def test_what_is_verified_is_what_is_evaluated(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that the disk garbled while it was written is never measured."""
    place, verify = copy.parent / "run", durable.verify
    forget_the_end(place)

    def garbled(folder: Path) -> None:
        if folder.name == "student":
            raise Damaged("garbled")
        verify(folder)

    monkeypatch.setattr(durable, "verify", garbled)
    with pytest.raises(Damaged, match="garbled"):
        distil(copy)
    assert not (place / "evaluation.json").exists()
