"""A checkpoint is complete or absent, holds no pickle, and gives back exactly what was saved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from nexus.errors import NexusError
from nexus.training.checkpoint import Checkpoints, load_weights, restore, weights_of
from nexus.training.optimizer import adamw


def moved(model: nn.Module) -> torch.optim.AdamW:
    """An optimiser that has made one step with the model."""
    optimizer = adamw(model, 1e-2, (0.9, 0.95), 0.01)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    return optimizer


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_weights_buffers_optimiser_and_random_numbers_come_back(
    model: nn.Module, tmp_path: Path
) -> None:
    optimizer = moved(model)
    model(torch.randn(5, 3))  # moves the buffers
    path = Checkpoints(tmp_path).save(7, model, optimizer)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.rand(3)

    torch.manual_seed(99)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    fresh = adamw(other, 5.0, (0.9, 0.95), 0.01)
    assert restore(path, other, fresh)["step"] == 7
    assert torch.equal(torch.rand(3), numbers)
    for name, value in other.state_dict().items():
        assert torch.equal(value, expected[name])
    states = [each.state_dict()["state"] for each in (optimizer, fresh)]
    assert states[0].keys() == states[1].keys() and len(states[0]) == 6
    for index, values in states[0].items():
        assert values.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in values.items():
            assert torch.equal(value, states[1][index][name])
            assert value.dtype == states[1][index][name].dtype


def test_the_optimiser_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    one = nn.Linear(3, 3)
    optimizer = moved(one)
    path = Checkpoints(tmp_path).save(1, one, optimizer)
    other = nn.Linear(3, 3)
    fresh = adamw(other, 1e-2, (0.9, 0.95), 0.01)
    restore(path, other, fresh)
    gradients = [torch.randn_like(p) for p in one.parameters()]
    for each, its in ((one, optimizer), (other, fresh)):
        for p, gradient in zip(each.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_nothing_is_pickled(model: nn.Module, tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, model, moved(model))
    assert {file.name for file in path.iterdir()} == {
        "student.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
    }
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert list(tensors.keys())
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_tied_weights_are_stored_once_and_stay_tied(scene: SimpleNamespace, tmp_path: Path) -> None:
    one = scene.make_model(tied=True)
    path = Checkpoints(tmp_path).save(1, one, moved(one))
    with safe_open(path / "student.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    other = scene.make_model(seed=5, tied=True)
    restore(path, other, adamw(other, 1e-2, (0.9, 0.95), 0.01))
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert torch.equal(other.lm_head.weight, one.lm_head.weight)
    assert {p.data_ptr() for p in other.parameters()} == {
        p.data_ptr() for group in adamw(other, 1.0, (0.9, 0.95), 0.0).param_groups
        for p in group["params"]
    }  # fmt: skip


def test_the_newest_is_that_of_the_highest_step(model: nn.Module, tmp_path: Path) -> None:
    """By number: 1,000,000 comes after 999,999, and time stamps say nothing."""
    checkpoints, optimizer = Checkpoints(tmp_path, keep=9), moved(model)
    assert checkpoints.newest() is None
    for step in (1_000_000, 5, 999_999):
        checkpoints.save(step, model, optimizer)
    os.utime(tmp_path / "step-000005")
    assert checkpoints.newest() == tmp_path / "step-1000000"


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_last_are_kept(model: nn.Module, tmp_path: Path, keep: int) -> None:
    checkpoints, optimizer = Checkpoints(tmp_path, keep), moved(model)
    for step in range(1, 6):
        checkpoints.save(step, model, optimizer)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"step-{step:06d}" for step in range(6 - keep, 6)
    ]


def test_what_was_half_written_is_ignored_and_swept(model: nn.Module, tmp_path: Path) -> None:
    checkpoints, optimizer = Checkpoints(tmp_path), moved(model)
    whole = checkpoints.save(3, model, optimizer)
    for name in (".step-000003", ".step-000009"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.safetensors").write_bytes(b"half of it")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "step-by-step").mkdir()
    assert checkpoints.newest() == whole
    checkpoints.sweep()
    assert not list(tmp_path.glob(".step-*"))
    assert (tmp_path / ".DS_Store").exists() and (tmp_path / "step-by-step").exists()
    checkpoints.save(9, model, optimizer)
    assert checkpoints.newest() == tmp_path / "step-000009"


def test_sweeping_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "absent").sweep()


def test_until_it_is_whole_a_checkpoint_has_no_name(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call fails, the older checkpoint is the newest, and saving again succeeds."""
    checkpoints, optimizer = Checkpoints(tmp_path), moved(model)
    old = checkpoints.save(1, model, optimizer)
    calls = 0

    def count_or_fail(limit: int | None) -> Any:
        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError(28, "No space left on device")

        return fsync

    monkeypatch.setattr(os, "fsync", count_or_fail(None))
    shutil.rmtree(checkpoints.save(2, model, optimizer))
    assert calls == 6  # four files, their directory, and the directory of checkpoints
    for failing in range(1, calls):
        calls = 0
        monkeypatch.setattr(os, "fsync", count_or_fail(failing))
        with pytest.raises(OSError, match="No space"):
            checkpoints.save(2, model, optimizer)
        assert checkpoints.newest() == old
        checkpoints.sweep()
    monkeypatch.undo()
    assert checkpoints.save(2, model, optimizer) == checkpoints.newest()


def test_an_older_checkpoint_loses_its_name_before_its_files(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, optimizer = Checkpoints(tmp_path, keep=1), moved(model)
    checkpoints.save(1, model, optimizer)

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, model, optimizer)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-000002"]


def test_another_student_is_refused(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, nn.Linear(3, 2), moved(nn.Linear(3, 2)))
    for other, said in (
        (nn.Linear(3, 2, bias=False), "'bias' is in only one of them"),
        (nn.Linear(1, 2), r"'weight' is \(2, 3\) float32 in the .*, \(2, 1\) float32 in the"),
        (nn.Linear(3, 2).bfloat16(), r"float32 in the checkpoint, \(2, 3\) bfloat16 in the"),
    ):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(NexusError, match=f"{said}.*--fresh"):
            restore(path, other, adamw(other, 1.0, (0.9, 0.95), 0.0))
        assert all(torch.equal(value, before[n]) for n, value in other.state_dict().items())


def test_another_format_is_refused(model: nn.Module, tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, model, moved(model))
    (path / "state.json").write_text('{"schema": 99, "step": 1}')
    with pytest.raises(NexusError, match="format 99, this version reads 1.*--fresh"):
        restore(path, model, moved(model))


def test_buffers_that_are_not_persistent_are_left_out(model: nn.Module) -> None:
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert "scratch" not in weights_of(model)
    assert "1.running_mean" in weights_of(model)
    load_weights(model, weights_of(model))
