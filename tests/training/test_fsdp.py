"""Weights spread over processes and put together again. test_parallel.py does it with two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.tensor import DTensor

from nexus.errors import NexusError, UsageError
from nexus.teachers.local import LocalTeacher
from nexus.training import fsdp
from nexus.training.fsdp import require_sharded, shard, strategy
from nexus.training.parallel import Parallel


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("tied", [False, True])
def test_what_was_sharded_comes_back_as_it_was(scene: SimpleNamespace, tied: bool) -> None:
    """Trained further meanwhile, too. To see it fail: in _without_values, leave out the memo."""
    stage = scene.make_stage(Path(), scene.make_model(tied=tied), None, None)
    student = stage.module.student
    names, config = list(student.state_dict()), student.config
    sharded = shard(stage.module, student)
    assert all(isinstance(parameter, DTensor) for parameter in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    whole = sharded.whole()
    assert type(whole) is type(scene.make_model()) and list(whole.state_dict()) == names
    original = scene.make_model(tied=tied)
    for (name, value), other in zip(whole.named_parameters(), original.parameters(), strict=True):
        assert type(value) is torch.nn.Parameter and value.requires_grad, name
        assert torch.equal(value, other + 1), name
    ids = torch.arange(9)[None]
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(1)
    assert torch.equal(whole(ids).logits, original(ids).logits)
    assert (whole.lm_head.weight is whole.model.embed_tokens.weight) == tied
    assert whole.config.to_dict() == config.to_dict()


@pytest.mark.usefixtures("group_of_one")
def test_a_sharded_teacher_says_the_same(scene: SimpleNamespace) -> None:
    batch = scene.in_rows([scene.make_documents([9, 5])])[0]
    teacher = LocalTeacher(scene.make_model(4, 1))
    before = teacher.signals(batch, teacher.provides).distribution
    shard(teacher.speaker, teacher.model)
    for _ in range(2):
        after = teacher.signals(batch, teacher.provides).distribution
        assert torch.equal(after.hidden, before.hidden)
        assert torch.equal(after.head.weight, before.head.weight)


def test_what_is_held_in_full_is_named(scene: SimpleNamespace) -> None:
    """To see it fail: in training/fsdp.py, `if not isinstance(parameter, DTensor):` → `if
    False:`.
    """
    with pytest.raises(NexusError, match=r"'model\.embed_tokens\.weight' .* train\.parallel"):
        require_sharded(scene.make_model())


def test_layers_that_share_weights_are_refused(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    first, second = model.model.layers
    second.mlp = first.mlp
    with pytest.raises(UsageError, match=r"'model\.layers\.0\.mlp.* Set it to ddp"):
        shard(model, model)


def test_a_layer_that_shares_a_weight_with_the_rest_is_refused(scene: SimpleNamespace) -> None:
    model = scene.make_model()
    model.model.norm.weight = model.model.layers[0].input_layernorm.weight
    with pytest.raises(UsageError, match="input_layernorm"):
        shard(model, model)


def test_auto_shards_what_does_not_fit(
    scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight in training takes four times its size, one that rests takes it once."""
    student, teacher = scene.make_model(2), scene.make_model(4).requires_grad_(False)
    bytes_needed = sum(16 * p.numel() for p in student.parameters())
    bytes_needed += sum(4 * p.numel() for p in teacher.parameters())
    gpu = Parallel(0, 2, torch.device("cuda", 0))
    monkeypatch.setattr(Parallel, "any", lambda self, flag: flag)

    def chosen(settings: str, parallel: Parallel, memory: float) -> str:
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        return strategy(scene.make_settings(parallel=settings), student, teacher, parallel)

    limit = bytes_needed / fsdp.FITS_SHARE
    assert chosen("auto", gpu, limit * 1.01) == "ddp"
    assert chosen("auto", gpu, limit * 0.99) == "fsdp2"
    assert chosen("ddp", gpu, 0) == "ddp" and chosen("fsdp2", gpu, limit * 9) == "fsdp2"
    assert chosen("auto", Parallel(0, 2), 0) == "ddp"
    assert chosen("fsdp2", Parallel(), 0) == "ddp", "one process has nobody to share with"
