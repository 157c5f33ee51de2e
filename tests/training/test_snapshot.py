"""All that a run needs to go on is in its checkpoint, and comes back or is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.disk import DiskFault, DiskFull
from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.signals import Signal, Signals
from nexus.teachers.teacher import Teacher
from nexus.training import snapshot as module
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.snapshot import Snapshot, save_tensors
from nexus.training.whole import WholeTensors


class Follower(Teacher):
    """Remembers one tensor, as a moving average of the student would."""

    provides = Signal.DISTRIBUTION
    vocabulary = 3

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        return Signals()

    def state(self) -> Mapping[str, Tensor]:
        return {"average": self.value}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.value = state["average"].clone()


def make(stage: str = "train", **given: Any) -> Snapshot:
    model = nn.Linear(3, 2)
    optimizer = adamw(model, 1e-2, (0.9, 0.95), 0.01)
    return Snapshot(stage, WholeTensors(model, optimizer), tokens_per_step=10, **given)


def change(folder: Path, **values: Any) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, **values}))


def test_place_rate_and_whatever_else_come_back(tmp_path: Path) -> None:
    one = make(step=4, metrics_bytes=321, extra={"rate": 0.5, "skipped": [1, 2]})
    for group in one.tensors.optimizer.param_groups:
        group["lr"] = 0.1234567890123456789
    one.write(tmp_path)
    other = make()
    other.read(tmp_path)()
    assert (other.step, other.metrics_bytes, other.extra) == (4, 321, one.extra)
    rates = [group["lr"] for group in other.tensors.optimizer.param_groups]
    assert rates == [0.1234567890123456789] * 2


def test_every_group_of_the_optimiser_is_written_whole(tmp_path: Path) -> None:
    one = make()
    one.write(tmp_path)
    groups = json.loads((tmp_path / "state.json").read_text())["groups"]
    for saved, group in zip(groups, one.tensors.optimizer.param_groups, strict=True):
        assert saved == {**{n: v for n, v in group.items() if n != "params"}, "betas": [0.9, 0.95]}


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    one = make()
    one.write(tmp_path)
    expected = torch.rand(3)
    torch.manual_seed(99)
    one.read(tmp_path)()
    assert torch.equal(torch.rand(3), expected)


def test_each_process_keeps_its_own_random_numbers(tmp_path: Path) -> None:
    """Also when there are fewer processes than before; with more, some begin with the same."""
    expected = []
    for rank in (1, 0):
        torch.manual_seed(rank)
        make(parallel=Parallel(rank=rank, world=2)).write(tmp_path)
        expected.append(torch.rand(3))
    for rank, world, from_rank in ((0, 2, 0), (1, 2, 1), (0, 1, 0), (2, 3, 0)):
        make(parallel=Parallel(rank=rank, world=world)).read(tmp_path)()
        assert torch.equal(torch.rand(3), expected[1 - from_rank])


def test_a_teacher_that_follows_the_student_goes_on_too(tmp_path: Path) -> None:
    make(teacher=Follower(torch.arange(3.0))).write(tmp_path)
    teacher = Follower(torch.zeros(3))
    apply = make(teacher=teacher).read(tmp_path)
    assert not teacher.value.any()
    apply()
    assert torch.equal(teacher.value, torch.arange(3.0))
    assert load_file(tmp_path / "teacher.safetensors").keys() == {"average"}


def test_a_teacher_of_another_kind_is_refused(tmp_path: Path) -> None:
    make(teacher=Follower(torch.zeros(3))).write(tmp_path)
    with pytest.raises(NexusError, match="does not fit the teacher: 'average'"):
        make().read(tmp_path)
    with pytest.raises(NexusError, match=r"'average' is \(3,\) float32 in the checkpoint, \(4,\)"):
        make(teacher=Follower(torch.zeros(4))).read(tmp_path)
    (tmp_path / "teacher.safetensors").unlink()
    with pytest.raises(Damaged, match=r"teacher\.safetensors"):
        make(teacher=Follower(torch.zeros(3))).read(tmp_path)


def test_most_teachers_have_nothing_to_keep(tmp_path: Path) -> None:
    make().write(tmp_path)
    assert not (tmp_path / "teacher.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "fault", "said"),
    [
        ({"schema": 99}, NexusError, "format 99, this version reads 2.*--fresh"),
        ({"stage": "other"}, NexusError, "its stage is 'other', and here it is 'train'"),
        ({"groups": []}, NexusError, "number of optimiser groups is 0, and here it is 2"),
        ({"step": -4, "tokens": -40}, Damaged, "values that no checkpoint has"),
        ({"groups": [{}, {}]}, Damaged, "values that no checkpoint has"),
        ({"world": 0}, Damaged, "values that no checkpoint has"),
        ({"step": "four"}, Damaged, "'step' is 'four'"),
        ({"unheard": 1}, Damaged, "unheard"),
        ({"extra": 3}, Damaged, "extra"),
    ],
)
def test_what_a_checkpoint_cannot_say_is_damage_and_what_it_should_not_is_refused(
    tmp_path: Path, values: dict[str, Any], fault: type[NexusError], said: str
) -> None:
    make(step=4).write(tmp_path)
    change(tmp_path, **values)
    with pytest.raises(NexusError, match=said) as raised:
        make().read(tmp_path)
    assert raised.type is fault


def test_a_random_state_of_another_length_is_damage(tmp_path: Path) -> None:
    one = make()
    one.write(tmp_path)
    save_tensors({"cpu": torch.zeros(7, dtype=torch.uint8)}, tmp_path / "random-0.safetensors")
    with pytest.raises(Damaged, match=r"random-0\.safetensors cannot be read"):
        one.read(tmp_path)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, DiskFault), (errno.EROFS, DiskFault)]
)
def test_what_the_disk_says_through_a_library_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[NexusError]
) -> None:
    """safetensors raises an error of its own, with the system's only in its text."""

    def refuse(*_: Any) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: what (os error {number})")

    monkeypatch.setattr(module, "save_file", refuse)
    with pytest.raises(kind, match=r"a\.safetensors cannot be written.*needs 12 bytes.*free there"):
        save_tensors({"x": torch.zeros(3)}, tmp_path / "a.safetensors")
