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

from nexus.errors import Interrupted, Lost
from nexus.teachers.local import LocalTeacher
from nexus.training.loop import Stage, train
from nexus.training.parallel import Parallel, processes

SCRIPT = Path(__file__).parent / "one_rank.py"
ALONE = Parallel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scene: SimpleNamespace) -> Path:
    """What two processes left behind, and one before them."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(Interrupted):
        train(stage_of_one(scene, folder / "there and back"), ALONE, stopping=scene.stop_after(4))
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


@pytest.fixture(scope="module")
def facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def stage_of_one(scene: SimpleNamespace, folder: Path) -> Stage:
    teacher = LocalTeacher(scene.make_model(4, 1))
    stage: Stage = scene.make_stage(folder, scene.make_model(2, 0), teacher, scene.Fresh(micro=1))
    return stage


def gradient(told: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    prefix = f"{kind}/"
    found = {n.removeprefix(prefix): value for n, value in told.items() if n.startswith(prefix)}
    return {name.removeprefix("module."): value for name, value in found.items()}


def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.mark.parametrize(
    ("kind", "ranks"), [("gradient", (0, 1)), ("silent", (0, 2)), ("fsdp2 silent", (0, 2))]
)
def test_unequal_ranks_have_the_gradient_of_one_process(
    scene: SimpleNamespace, told: list[dict[str, Tensor]], kind: str, ranks: tuple[int, int]
) -> None:
    """Also where one of them has no target at all.

    To see it fail: in training/loop.py, `return parallel.total(own).clamp_min(1)` → `return
    own.clamp_min(1)`.
    """
    groups = [script().own_rows(rank) for rank in ranks]
    counts = [sum(int(batch.target_count) for batch in group) for group in groups]
    assert counts[0] > 2 * counts[1] and (counts[1] == 0) == ("silent" in kind)
    alone = scene.step_gradient([batch for group in groups for batch in group])
    for each in told:
        assert scene.distance(gradient(each, kind), alone) < 1e-6
    first, second = (gradient(each, kind) for each in told)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_no_way_of_cutting_a_step_changes_its_gradient(
    scene: SimpleNamespace, told: list[dict[str, Tensor]], strategy: str
) -> None:
    """Micro-batches, padding, order of rows, ranks: the step is one sum over one count.

    To see it fail: in loop.take_step, divide by each micro-batch's own `target_count`, or leave
    out `parallel.world`.
    """
    from_one = script()
    rows = [batch for rank in (0, 1) for batch in from_one.many_rows(rank, micro=8)]
    alone = scene.step_gradient(rows)
    for name, arrangement in from_one.ARRANGEMENTS.items():
        again = [batch for rank in (0, 1) for batch in from_one.many_rows(rank, **arrangement)]
        assert scene.distance(scene.step_gradient(again), alone) < 1e-6, f"one process, {name}"
        assert scene.distance(gradient(told[1], f"{strategy} {name}"), alone) < 1e-6, name


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["plain", "tied", "recomputed", "adapted"])
def test_a_sharded_student_of_any_kind_has_the_gradient_of_a_whole_one(
    scene: SimpleNamespace, told: list[dict[str, Tensor]], kind: str
) -> None:
    """The head's gradient, which is computed apart from its module, reaches its shards too.

    To see it fail: in fsdp.shard, shard the student instead of `root`.
    """
    from_one = script()
    rows = [batch for rank in (0, 1) for batch in from_one.many_rows(rank, micro=4)]
    alone = scene.step_gradient(rows, from_one.make_student(kind))
    sharded = gradient(told[0], f"student {kind}")
    assert scene.distance(sharded, alone) < 1e-6
    assert any("embed_tokens" in name for name in sharded) == (kind != "adapted")


def test_each_process_holds_its_share_and_all_of_it_comes_back(
    facts: list[dict[str, Any]],
) -> None:
    """To see it fail: in fsdp.shard, leave out `fully_shard(root)`."""
    for each in facts:
        assert each["share"] == pytest.approx(1 / 2, rel=0.05)
        assert each["after"] == facts[0]["before"]
        assert each["type"] == "LlamaForCausalLM"
        assert "'student." in each["refusal"] and "train.parallel" in each["refusal"]
    assert facts[0]["before"] != facts[1]["before"]
    assert [each["teacher"] for each in facts] == ["LlamaForCausalLM", None]


def test_flags_and_sums_are_the_same_everywhere(
    told: list[dict[str, Tensor]], facts: list[dict[str, Any]]
) -> None:
    for each in told:
        assert each["any"].tolist() == [True, False]
        assert each["total"].tolist() == [2.0, 1.0]
    assert [each["main alone"] for each in facts] == [True, False]


def test_all_stop_when_one_is_asked_to_and_the_run_is_that_of_one_process(
    scene: SimpleNamespace, folder: Path, facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert all(each["interrupted"] for each in facts)
    train(stage_of_one(scene, tmp_path), ALONE, quiet=True)
    require_same(metrics(folder), metrics(tmp_path))
    names = [path.name for path in sorted((folder / "checkpoints/train").iterdir())]
    assert names == ["step-000006", "step-000008"]


def test_any_number_of_processes_continues_what_any_other_began(
    scene: SimpleNamespace, folder: Path, tmp_path: Path
) -> None:
    """One process, two that share the weights, two that hold them, two that share, and one.

    To see it fail: in StageTensors.read, skip the moments, or in Batches.take count the rows of
    one rank alone.
    """
    back = folder / "there and back"
    kept = {path.name for path in (back / "checkpoints/train/step-000007").rglob("*")}
    assert "shards" in kept and not kept & {"student.safetensors", "optimizer.safetensors"}
    train(stage_of_one(scene, back), ALONE, quiet=True)
    train(stage_of_one(scene, tmp_path), ALONE, quiet=True)
    require_same(metrics(back), metrics(tmp_path), loss=1e-5)


def require_same(two: list[dict[str, Any]], one: list[dict[str, Any]], loss: float = 1e-4) -> None:
    assert [entry["step"] for entry in two] == list(range(1, 9))
    for entry, other in zip(two, one, strict=True):
        assert entry["targets"] == other["targets"]
        assert entry["loss"] == pytest.approx(other["loss"], rel=loss)
        assert entry["kl"] == pytest.approx(other["kl"], rel=1e-4)
        assert entry["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("said", "is_loss"),
    [
        ("[/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer", True),
        ("Timed out waiting 4000ms for recv operation to complete", True),
        ("NCCL communicator was aborted on rank 1.", True),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
    ],
)
def test_a_bug_is_not_taken_for_another_process_that_died(
    monkeypatch: pytest.MonkeyPatch, said: str, is_loss: bool
) -> None:
    """A bug would be the same again in the next job, and keeps its traceback."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    met = iter([(torch.distributed.HashStore(), 0, 2)])
    monkeypatch.setattr("nexus.training.parallel.rendezvous", lambda *_, **__: met)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with pytest.raises(Lost if is_loss else RuntimeError) as caught, processes(5.0):
        raise RuntimeError(said)
    assert isinstance(caught.value, Lost) == is_loss


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
