"""Two processes compute what one computes."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nexus.teachers.local import LocalTeacher
from nexus.training.loop import train
from nexus.training.parallel import Parallel, processes

SCRIPT = Path(__file__).parent / "one_rank.py"
ALONE = Parallel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in (0, 1)]


def gradient(told: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    prefix = f"{kind}."
    return {n.removeprefix(prefix): value for n, value in told.items() if n.startswith(prefix)}


@pytest.mark.parametrize(("kind", "ranks"), [("gradient", (0, 1)), ("silent", (0, 2))])
def test_unequal_ranks_have_the_gradient_of_one_process(
    scene: SimpleNamespace, told: list[dict[str, Tensor]], kind: str, ranks: tuple[int, int]
) -> None:
    """Also where one of them has no target at all."""
    own_rows = runpy.run_path(str(SCRIPT))["own_rows"]
    groups = [own_rows(rank) for rank in ranks]
    counts = [sum(int(batch.target_count) for batch in group) for group in groups]
    assert counts[0] > 2 * counts[1] and (counts[1] == 0) == (kind == "silent")
    alone = scene.step_gradient([batch for group in groups for batch in group])
    for each in told:
        assert scene.distance(stripped(gradient(each, kind)), alone) < 1e-6
    first, second = (gradient(each, kind) for each in told)
    assert all(torch.equal(first[name], second[name]) for name in first)


def stripped(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in named.items()}


def test_flags_and_sums_are_the_same_everywhere(told: list[dict[str, Tensor]]) -> None:
    for each in told:
        assert each["any"].tolist() == [True, False]
        assert each["total"].tolist() == [2.0, 1.0]


def test_all_stop_when_one_is_asked_to_and_the_run_is_that_of_one_process(
    scene: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    assert (folder / "interrupted-0").exists() and (folder / "interrupted-1").exists()
    teacher = LocalTeacher(scene.make_model(4, 1))
    stage = scene.make_stage(tmp_path, scene.make_model(2, 0), teacher, scene.Fresh(micro=1))
    train(stage, ALONE, quiet=True)
    two, one = (metrics(each) for each in (folder, tmp_path))
    assert [entry["step"] for entry in two] == list(range(1, 9))
    for entry, other in zip(two, one, strict=True):
        assert entry["targets"] == other["targets"]
        assert entry["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert entry["kl"] == pytest.approx(other["kl"], rel=1e-4)
        assert entry["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)
    names = [path.name for path in sorted((folder / "checkpoints/train").iterdir())]
    assert names == ["step-000006", "step-000008"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_process_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as parallel:
        assert (parallel.rank, parallel.world, parallel.is_main) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        module, value = nn.Linear(1, 1), torch.tensor(3.0)
        assert parallel.wrap(module) is module
        assert parallel.total(value) is value and value == 3
        assert parallel.any(True) and not parallel.any(False)
        with parallel.hold_gradients(module, last=False):
            parallel.wait()
