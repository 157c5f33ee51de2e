"""Tensors that each process writes its part of. test_parallel.py does it with two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.signals import Signals
from nexus.training.fsdp import shard
from nexus.training.optimizer import adamw
from nexus.training.sharded import SHARDS, StageTensors
from nexus.training.whole import moments_of, weights_of


def make(scene: SimpleNamespace, seed: int, *, spread: bool, **model: Any) -> StageTensors:
    """A student and its optimiser after one step."""
    module = scene.make_stage(Path(), scene.make_model(2, seed, **model), None, None).module
    if spread:
        shard(module, module.student)
    optimizer = adamw(module, 1e-2, (0.9, 0.95), 0.01)
    for number, parameter in enumerate(module.parameters(), start=seed + 1):
        parameter.grad = torch.ones_like(parameter) * number
    optimizer.step()
    return StageTensors(module, optimizer)


def content(scene: SimpleNamespace, tensors: StageTensors) -> dict[str, Tensor]:
    held = {**weights_of(tensors.model), **moments_of(tensors.optimizer)}
    return {name: scene.whole(value) for name, value in held.items()}


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize(("written", "read"), [(True, True), (True, False), (False, True)])
def test_what_was_written_one_way_is_read_the_other(
    scene: SimpleNamespace, tmp_path: Path, written: bool, read: bool
) -> None:
    """Nothing changes before all was read. To see it fail: leave the moments out of `read`."""
    first = make(scene, 0, spread=written)
    first.write(tmp_path)
    assert (tmp_path / SHARDS).is_dir() == written
    second = make(scene, 7, spread=read)
    before, wanted = content(scene, second), content(scene, first)
    apply = second.read(tmp_path)
    untouched = content(scene, second)
    assert all(torch.equal(untouched[name], value) for name, value in before.items())
    apply()
    found = content(scene, second)
    assert found.keys() == wanted.keys() and any(name.endswith(".step") for name in found)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    second.optimizer.step()


@pytest.mark.usefixtures("group_of_one")
def test_a_look_at_the_losses_before_does_not_undo_what_was_read(
    scene: SimpleNamespace, tmp_path: Path
) -> None:
    """Weights that a forward pass put together are not what the next step is taken on.

    To see it fail: in StageTensors.read, leave out `settle`, and in weights_of do not ask for the
    `state_dict`, which settles too.
    """
    first, second = (make(scene, seed, spread=True) for seed in (0, 7))
    wanted = content(scene, first)
    first.write(tmp_path)
    batch = scene.in_rows([scene.make_documents([9])])[0]
    with torch.no_grad():
        second.model(batch, Signals(), (1.0, 0.0))
    second.read(tmp_path)()
    second.model(batch, Signals(), (1.0, 0.0)).total.backward()
    found = content(scene, second)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.usefixtures("group_of_one")
def test_shards_are_safetensors_and_nothing_else(scene: SimpleNamespace, tmp_path: Path) -> None:
    """PyTorch's own default beside them is a pickle."""
    tensors = make(scene, 0, spread=True)
    tensors.write(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(path.suffix == ".safetensors" for path in files)
    assert sum(path.stat().st_size for path in files) == pytest.approx(tensors.size(), rel=0.1)


@pytest.mark.usefixtures("group_of_one")
def test_shards_of_another_student_do_not_fit(scene: SimpleNamespace, tmp_path: Path) -> None:
    make(scene, 0, spread=True).write(tmp_path)
    with pytest.raises(NexusError, match=r"does not fit the student: 'student\..*lm_head"):
        make(scene, 0, spread=True, tied=True).read(tmp_path)


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damaged_shards_are_called_damaged(
    scene: SimpleNamespace, tmp_path: Path, harm: str
) -> None:
    tensors = make(scene, 0, spread=True)
    tensors.write(tmp_path)
    (file,) = (tmp_path / SHARDS).iterdir()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises((Damaged, NexusError), match="cannot be read|does not fit"):
        tensors.read(tmp_path)


@pytest.mark.usefixtures("group_of_one")
def test_what_the_disk_refuses_is_said_as_everywhere(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = make(scene, 0, spread=True)
    (tmp_path / SHARDS).write_text("in the way")
    with pytest.raises(NexusError, match="cannot be written"):
        tensors.write(tmp_path)
