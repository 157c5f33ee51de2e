"""A run that cannot fit on the disk is refused before its first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from nexus.errors import UsageError
from nexus.training import space
from nexus.training.loop import train
from nexus.training.parallel import Parallel
from nexus.training.settings import TrainSpec
from nexus.training.space import checkpoint_bytes, most_bytes, require_space, written_bytes


def settings(**changed: Any) -> TrainSpec:
    return TrainSpec.parse({"steps": 100, "save_every": 10, "dashboard": "none", **changed})


@pytest.fixture
def student() -> nn.Module:
    return nn.Linear(30, 20, bias=False)  # 600 weights


def test_closed_forms(student: nn.Module) -> None:
    each = 600 * 4 * 3
    assert checkpoint_bytes(student, settings()) == each
    assert checkpoint_bytes(student, settings(precision="pure_bf16")) == each // 2
    assert checkpoint_bytes(student, settings(lora={"rank": 2})) == 600 * 4
    assert most_bytes([student], [settings(keep_checkpoints=2)]) == 3 * each
    assert most_bytes([student] * 2, [settings(keep_checkpoints=2)] * 2) == 5 * each
    only_two = settings(save_every=100, keep_checkpoints=9)  # before the first step and at the end
    assert most_bytes([student], [only_two]) == 2 * each + 600 * 4
    student.weight.requires_grad_(False)
    assert checkpoint_bytes(student, settings()) == 600 * 4


def test_what_is_predicted_is_what_training_writes(scene: SimpleNamespace, tmp_path: Path) -> None:
    student = scene.make_model(seed=0)
    stage = scene.make_stage(
        tmp_path, student, None, scene.Fresh(), scene.BOTH[:1], steps=3, save_every=1
    )
    train(stage, Parallel(), quiet=True)
    predicted = 2 * checkpoint_bytes(student, stage.settings)
    overhead = 2 * 20_000  # headers, random states, state.json
    assert predicted < written_bytes(tmp_path) < predicted + overhead


def test_what_cannot_fit_is_refused_with_both_numbers(
    student: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(bytes_: int) -> None:
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=bytes_))

    stages = [settings(keep_checkpoints=1)]
    free(14_400)
    require_space(tmp_path / "run", [student], stages, Parallel())
    free(14_399)
    with pytest.raises(UsageError, match=r"14,400 bytes more .*7,200 bytes each.*14,399 bytes"):
        require_space(tmp_path / "run", [student], stages, Parallel())
    there = tmp_path / "run/checkpoints/train/step-000010"
    there.mkdir(parents=True)
    (there / "student.safetensors").write_bytes(b"x")
    # A byte of it is written already.
    require_space(tmp_path / "run", [student], stages, Parallel())
