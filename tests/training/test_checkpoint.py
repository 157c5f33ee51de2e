"""A checkpoint is complete or absent, and only a good one is ever used."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nexus import durable
from nexus.disk import DiskFault, DiskFull
from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.teachers.local import LocalTeacher
from nexus.training.checkpoint import Checkpoints
from nexus.training.loop import train
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.snapshot import Snapshot
from nexus.training.whole import WholeTensors

FILES = ("student.safetensors", "optimizer.safetensors", "random-0.safetensors", "state.json")


def snapshot_of(model: nn.Module, step: int = 0) -> Snapshot:
    """With an optimiser that has made one step."""
    optimizer = adamw(model, 1e-2, (0.9, 0.95), 0.01)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return Snapshot("train", WholeTensors(model, optimizer), step=step)


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def save(model: nn.Module, tmp_path: Path) -> Callable[..., Path]:
    snapshot = snapshot_of(model)

    def at(step: int, keep: int = 9) -> Path:
        snapshot.step = step
        return Checkpoints(tmp_path, keep).save(snapshot)

    return at


def test_what_is_restored_is_what_was_saved(model: nn.Module, tmp_path: Path) -> None:
    checkpoints, snapshot = Checkpoints(tmp_path), snapshot_of(model, step=7)
    snapshot.metrics_bytes, snapshot.extra = 123, {"rate": 0.5}
    path = checkpoints.save(snapshot)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    other = snapshot_of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    assert checkpoints.restore(other) == path
    assert (other.step, other.metrics_bytes, other.extra) == (7, 123, {"rate": 0.5})
    assert isinstance(other.tensors, WholeTensors)
    restored = other.tensors.model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in restored.items())


def test_nothing_is_pickled(save: Callable[..., Path]) -> None:
    path = save(1)
    assert {file.name for file in path.iterdir()} == {*FILES, durable.MANIFEST}
    assert all(load_file(file) for file in path.glob("*.safetensors"))
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_the_newest_is_that_of_the_highest_step(save: Callable[..., Path], tmp_path: Path) -> None:
    """By number: 1,000,000 comes after 999,999, and time stamps say nothing."""
    assert Checkpoints(tmp_path).newest() is None
    for step in (5, 999_999, 1_000_000):
        save(step)
    for number, step in enumerate((1_000_000, 999_999, 5)):
        os.utime(tmp_path / f"step-{step:06d}", (number, number))
    assert Checkpoints(tmp_path).newest() == tmp_path / "step-1000000"


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_last_are_kept_whatever_the_clock_says(
    save: Callable[..., Path], tmp_path: Path, keep: int
) -> None:
    """Sort by time in `_prune` to see it fail."""
    for step in range(1, 6):
        path = save(step, keep)
        os.utime(path, (1e9 - step * 1e6, 1e9 - step * 1e6))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:06d}" for step in range(6 - keep, 6)
    ]


def test_killed_before_it_dropped_the_older_ones_it_drops_them_when_it_goes_on(
    model: nn.Module, save: Callable[..., Path], tmp_path: Path
) -> None:
    """The last save of a run may be the one that was killed: no later one would drop them."""
    for step in (2, 4, 6):
        save(step)
    Checkpoints(tmp_path, keep=2).restore(snapshot_of(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000006"]


def test_what_training_left_behind_when_it_went_back_is_dropped(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    for step in (2, 4, 6, 3):
        save(step, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_step_that_is_saved_again_is_replaced(save: Callable[..., Path], tmp_path: Path) -> None:
    save(2)
    (save(2) / "state.json").write_text("damaged")
    durable.verify(save(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_what_was_half_written_is_swept(save: Callable[..., Path], tmp_path: Path) -> None:
    whole = save(3)
    for name in (".tmp-step-000003", ".tmp-step-000009", ".del-step-000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.safetensors").write_bytes(b"half of it")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "step-by-step").mkdir()
    assert Checkpoints(tmp_path).newest() == whole
    Checkpoints(tmp_path).open()
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, ".DS_Store", "step-by-step"}
    assert save(9) == Checkpoints(tmp_path).newest()


def test_opening_makes_the_directory(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "checkpoints" / "train").open()
    assert (tmp_path / "checkpoints" / "train").is_dir()


def test_a_damaged_one_is_put_aside_with_a_word_and_the_one_before_is_used(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    """Three times the same step, for one that was put aside must not be in the way of the next."""
    older, said = save(2), list[tuple[int, str, str]]()
    for _ in range(3):
        (save(4) / "optimizer.safetensors").unlink()
        assert Checkpoints(tmp_path, notice=lambda *words: said.append(words)).newest() == older
    assert [step for step, _, _ in said] == [4, 4, 4]
    assert all("optimizer.safetensors is missing" in what for _, what, _ in said)
    aside = sorted(path.name for path in tmp_path.glob("quarantine-*"))
    assert aside == ["quarantine-step-000004" + end for end in ("", "-1", "-2")]
    assert save(4) == Checkpoints(tmp_path).newest()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"schema": 2}', b"\x93NUMPY", b"\xff" * 64, b"[" * 100_000]
)
def test_what_cannot_be_read_is_damage_even_under_a_good_manifest(
    model: nn.Module, tmp_path: Path, name: str, content: bytes
) -> None:
    """And nothing of it reaches the student, not even where no other checkpoint is left."""
    checkpoints, snapshot = Checkpoints(tmp_path), snapshot_of(model, step=4)
    path = checkpoints.save(snapshot)
    with durable.directory(path) as aside:
        for file in FILES:
            shutil.copy(path / file, aside)
        (aside / name).write_bytes(content)
    before = {n: value.clone() for n, value in model.state_dict().items()}
    with torch.no_grad():
        next(model.parameters()).add_(1)
        before["0.weight"] += 1
    snapshot.step = 0
    assert checkpoints.restore(snapshot) is None
    assert snapshot.step == 0
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["quarantine-step-000004"]


def test_a_disk_that_cannot_be_read_is_no_damage(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one loose cable would put all checkpoints aside. Drop `reading` in verify to see."""
    path = save(4)

    def fail(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(durable, "sha256", fail)
    with pytest.raises(DiskFault, match=r"safetensors cannot be read: Input/output error"):
        Checkpoints(tmp_path).newest()
    monkeypatch.undo()
    assert Checkpoints(tmp_path).newest() == path


def test_whatever_call_fails_the_older_one_is_intact(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fsync in turn; nothing half written stays, and saving again succeeds."""
    old, calls = save(1), 0

    def failing_at(limit: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return fsync

    monkeypatch.setattr(os, "fsync", failing_at(0))
    shutil.rmtree(save(2))
    assert calls == 7  # four files, manifest, their directory, and the directory of checkpoints
    for limit in range(1, 7):
        calls = 0
        monkeypatch.setattr(os, "fsync", failing_at(limit))
        with pytest.raises(DiskFull, match=r"step-000002.* cannot be written: No space left.*free"):
            save(2)
        assert [path.name for path in tmp_path.iterdir()] == [old.name]
        assert Checkpoints(tmp_path).newest() == old
    monkeypatch.undo()
    assert save(2) == Checkpoints(tmp_path).newest()


def test_nothing_older_goes_before_the_new_one_is_verified(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swap verifying and pruning in `save` to see it fail."""
    save(1, 1)

    def find_damage(path: Path) -> None:
        raise Damaged(f"{path} is not what was written")

    monkeypatch.setattr(durable, "verify", find_damage)
    with pytest.raises(Damaged):
        save(2, 1)
    assert (tmp_path / "step-000001").is_dir()


def test_an_older_checkpoint_loses_its_name_before_its_files(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(1, 1)
    remove = shutil.rmtree

    def die(path: Path, **options: Any) -> None:
        if path.exists():
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        save(2, 1)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000002"]


def test_a_directory_that_vanished_is_not_made_anew(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path)
    with pytest.raises(DiskFault, match="No such file or directory.*Its directory is gone"):
        save(2)
    assert not tmp_path.exists()


class Elsewhere(Parallel):
    """One of two processes, in which the other one always fails."""

    def any(self, flag: bool) -> bool:
        return True


def test_what_fails_in_another_process_fails_in_this_one(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(NexusError, match="another process"):
        Checkpoints(tmp_path, parallel=Elsewhere()).save(snapshot_of(model, step=2))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def distil(scene: SimpleNamespace, tmp_path: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Trains six steps in a directory, from its newest good checkpoint, to the last weights."""

    def run(name: str, notices: list[str] | None = None) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        student, teacher = scene.make_model(seed=0, dropout=0.2), scene.make_model(2, 1)
        settings = {"steps": 6, "save_every": 2, "keep_checkpoints": 2}
        stage = scene.make_stage(folder, student, LocalTeacher(teacher), scene.Fresh(), **settings)
        torch.manual_seed(0)
        heard = [] if notices is None else notices
        train(stage, Parallel(), quiet=True, notice=lambda step, what, _: heard.append(what))
        return dict(student.state_dict())

    return run


def spoil(checkpoint: Path, chance: random.Random) -> str:
    """Flip a bit, cut, empty or delete a file; what was done, or nothing if it changed nothing."""
    file = chance.choice(sorted(checkpoint.iterdir()))
    content = bytearray(file.read_bytes())
    kind = chance.choices(("flip", "cut", "empty", "delete"), (7, 1, 1, 1))[0]
    match kind:
        case "flip":
            at = chance.randrange(len(content) * 8)
            content[at // 8] ^= 1 << at % 8
        case "cut":
            del content[chance.randrange(len(content)) :]
        case "empty":
            content.clear()
        case "delete":
            file.unlink()
            return f"{kind} {file.name}"
    meant = _meaning(file.name, file.read_bytes())
    file.write_bytes(content)
    return "" if meant == _meaning(file.name, bytes(content)) else f"{kind} {file.name}"


def _meaning(name: str, content: bytes) -> Any:
    """The content; of a manifest what it says, in which white space does not count."""
    if name != durable.MANIFEST:
        return content
    try:
        return json.loads(content)
    except ValueError:
        return content


def newest(stage: Path, said: list[str]) -> Path | None:
    return Checkpoints(stage, notice=lambda step, what, _: said.append(what)).newest()


def test_a_thousand_damages_are_never_silent(
    distil: Callable[..., dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """Each shows, and training goes on from the checkpoint before to the very same weights.

    Return from `verify` before it compares hashes to see it fail.
    """
    expected = distil("run")
    stage, chance = tmp_path / "run/checkpoints/train", random.Random(0)
    whole = shutil.copytree(stage / "step-000006", tmp_path / "whole")
    silent = trained = 0
    for number in range(1000):
        shutil.rmtree(stage / "step-000006", ignore_errors=True)
        shutil.copytree(whole, stage / "step-000006")
        done = spoil(stage / "step-000006", chance)
        said: list[str] = []
        if number % 100 == 0 and done:
            weights = distil("run", said)
            assert all(torch.equal(value, expected[name]) for name, value in weights.items())
            trained += 1
        else:
            silent += (newest(stage, said) == stage / "step-000006") == bool(done)
        assert len(said) == bool(done), done
        for aside in stage.glob("quarantine-*"):
            shutil.rmtree(aside)
    assert silent == 0 and trained >= 8


def test_with_no_good_checkpoint_training_begins_again(
    distil: Callable[..., dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    expected, said = distil("run"), list[str]()
    metrics = (tmp_path / "run/metrics.jsonl").read_text().count("\n")
    for path in (tmp_path / "run/checkpoints/train").iterdir():
        (path / "student.safetensors").write_bytes(b"")
    weights = distil("run", said)
    assert len(said) == 2
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == metrics
