"""Weights and moments go into files and come back, tied ones still tied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nexus.durable import Damaged
from nexus.errors import NexusError
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.whole import MOMENTS, WEIGHTS, WholeTensors, weights_of


def tensors_of(model: nn.Module, steps: int = 1) -> WholeTensors:
    """With an optimiser that has made so many steps with the model."""
    optimizer = adamw(model, 1e-2, (0.9, 0.95), 0.01)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    return WholeTensors(model, optimizer)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_weights_buffers_and_moments_come_back(tmp_path: Path) -> None:
    one, other = tensors_of(make()), tensors_of(make(), steps=0)
    one.model(torch.randn(5, 3))  # moves the buffers
    one.write(tmp_path)
    other.read(tmp_path)()
    kept = one.model.state_dict()
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, kept[name])
    states = [each.optimizer.state_dict()["state"] for each in (one, other)]
    assert states[0].keys() == states[1].keys() and len(states[0]) == 6
    for index, values in states[0].items():
        assert values.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in values.items():
            assert torch.equal(value, states[1][index][name])
            assert value.dtype == states[1][index][name].dtype


def test_the_optimiser_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    one, other = tensors_of(nn.Linear(3, 3)), tensors_of(nn.Linear(3, 3), steps=0)
    one.write(tmp_path)
    other.read(tmp_path)()
    gradients = [torch.randn_like(p) for p in one.model.parameters()]
    for each in (one, other):
        for p, gradient in zip(each.model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        each.optimizer.step()
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_tied_weights_are_stored_once_and_stay_tied(scene: SimpleNamespace, tmp_path: Path) -> None:
    one = scene.make_model(tied=True)
    tensors_of(one).write(tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        names = list(file.keys())
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    other = scene.make_model(seed=5, tied=True)
    tensors_of(other, steps=0).read(tmp_path)()
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert torch.equal(other.lm_head.weight, one.lm_head.weight)


def test_what_is_read_changes_nothing_until_it_is_applied(tmp_path: Path) -> None:
    tensors_of(nn.Linear(3, 2)).write(tmp_path)
    other = tensors_of(nn.Linear(3, 2), steps=0)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    other.read(tmp_path)
    assert all(torch.equal(v, before[name]) for name, v in other.model.state_dict().items())
    assert not other.optimizer.state_dict()["state"]


def test_another_student_is_refused(tmp_path: Path) -> None:
    tensors_of(nn.Linear(3, 2)).write(tmp_path)
    for model, said in (
        (nn.Linear(3, 2, bias=False), "'bias' is in only one of them"),
        (nn.Linear(1, 2), r"'weight' is \(2, 3\) float32 in the .*, \(2, 1\) float32 in the"),
        (nn.Linear(3, 2).bfloat16(), r"float32 in the checkpoint, \(2, 3\) bfloat16 in the"),
    ):
        with pytest.raises(NexusError, match=f"{said}.*--fresh"):
            tensors_of(model, steps=0).read(tmp_path)


def test_moments_of_no_weight_are_refused(tmp_path: Path) -> None:
    one = tensors_of(nn.Linear(3, 2))
    one.write(tmp_path)
    for name, fault in (("9.exp_avg", NexusError), ("exp_avg", Damaged), ("0.exp_avg", NexusError)):
        save_file({name: torch.zeros(5)}, tmp_path / MOMENTS)
        with pytest.raises(fault, match=name):
            one.read(tmp_path)


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    one = tensors_of(nn.Linear(300, 200))
    one.write(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert one.size() == 3 * 4 * (300 * 200 + 200)
    assert one.size() < written < one.size() + 2000  # headers


def test_one_process_writes(tmp_path: Path) -> None:
    one = tensors_of(nn.Linear(3, 2))
    WholeTensors(one.model, one.optimizer, Parallel(rank=1, world=2)).write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_buffers_that_are_not_persistent_are_left_out() -> None:
    model = make()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    assert "scratch" not in weights_of(model) and "1.running_mean" in weights_of(model)
