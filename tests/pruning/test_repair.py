"""What is kept stands in for what was cut as well as it can, and never does harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning import repair as repairing
from nexus.pruning.families import family_of, layers_of
from nexus.pruning.repair import repair
from nexus.pruning.slice import Kept, cut

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]

DOWN = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "opt": "fc2", "bert": "output.dense"}
KINDS = tuple(DOWN)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def some_neurons(seed: int = 0, count: int = 16) -> Kept:
    generator = torch.Generator().manual_seed(seed)
    return Kept(neurons={n: torch.randperm(24, generator=generator)[:count] for n in range(3)})


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_cut_nothing_changes(kind: str, small: Small, rows: Rows) -> None:
    model = small(kind)
    shuffled = {n: torch.randperm(24) for n in range(3)}
    for kept in (Kept(), Kept(neurons=shuffled), Kept(layers=(0, 2))):
        narrow = cut(model, kept)
        before = weights(narrow)
        repair(narrow, model, kept, [rows(9, 5)])
        assert all(torch.equal(value, before[name]) for name, value in weights(narrow).items())


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_that_repeat_others_are_not_missed(kind: str, small: Small, rows: Rows) -> None:
    """Eight neurons do what others do as well: all of their output is restored."""
    model = small(kind)
    first = {"llama": ("gate_proj", "up_proj"), "gpt2": ("c_fc",), "opt": ("fc1",)}
    ends = first.get(kind, ("intermediate.dense",))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(f"{end}." in name for end in ends):
                if kind == "gpt2" and value.dim() == 2:
                    value[:, 16:] = value[:, :8]
                else:
                    value[16:] = value[:8]
    kept, batch = Kept(neurons={n: torch.arange(16) for n in range(3)}), rows(20, 31, 25, 28)
    narrow = cut(model, kept)
    wrong = difference(model, narrow, batch)
    repair(narrow, model, kept, [batch], ridge=1e-7)
    assert difference(model, narrow, batch) < 2e-4 < 0.05 < wrong


def difference(model: PreTrainedModel, other: PreTrainedModel, batch: Batch) -> float:
    mask = (batch.documents >= 0).long()
    with torch.no_grad():
        ours, theirs = (
            each(input_ids=batch.input_ids, attention_mask=mask).logits[mask.bool()]
            for each in (model, other)
        )
    return float((ours - theirs).abs().max())


def test_a_head_that_repeats_another_is_not_missed(small: Small, rows: Rows) -> None:
    """Heads 1 and 3 are copies of 0 and 2; the latter take over what the copies wrote."""
    model, batch = small(attention_bias=True), rows(20, 31, 25)
    with torch.no_grad():
        for layer in model.model.layers:
            for value in layer.self_attn.q_proj.parameters():
                heads = value.view(4, 4, -1)
                heads[1], heads[3] = heads[0].clone(), heads[2].clone()
    kept = Kept(heads={n: torch.tensor([0, 2]) for n in range(3)})
    narrow = cut(model, kept)
    wrong = difference(model, narrow, batch)
    repair(narrow, model, kept, [batch], ridge=1e-7)
    assert difference(model, narrow, batch) < 2e-4 < 0.05 < wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 1.0])
def test_the_calibration_loss_never_rises(
    kind: str, ridge: float, small: Small, rows: Rows
) -> None:
    """The loss written out, on the inputs of the model that was cut; and with little
    regularisation it is the least there can be."""
    model, kept, batch = small(kind), some_neurons(), rows(9, 31, 7)
    narrow = cut(model, kept)
    before = [loss(model, narrow, kept, batch, kind, layer) for layer in range(3)]
    repair(narrow, model, kept, [batch], ridge=ridge)
    after = [loss(model, narrow, kept, batch, kind, layer) for layer in range(3)]
    assert all(new < old for new, old in zip(after, before, strict=True))
    if ridge == 1e-6:
        best = [loss(model, narrow, kept, batch, kind, layer, best=True) for layer in range(3)]
        assert after == pytest.approx(best, rel=1e-3)


def loss(
    model: PreTrainedModel,
    narrow: PreTrainedModel,
    kept: Kept,
    batch: Batch,
    kind: str,
    layer: int,
    best: bool = False,
) -> float:
    """Of the narrow model's projection, or the least that any weights with its bias could have."""
    _, layers = layers_of(model, family_of(model))
    _, new_layers = layers_of(narrow, family_of(narrow))
    down = dict(layers[layer].named_modules())[DOWN[kind]]
    new_down = dict(new_layers[layer].named_modules())[DOWN[kind]]
    seen: dict[str, Tensor] = {}
    handles = [
        down.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out)),
        layers[layer].register_forward_hook(
            lambda _, __, out: seen.update(h=out if isinstance(out, Tensor) else out[0])
        ),
    ]
    mask = batch.documents >= 0
    with torch.no_grad():
        model(input_ids=batch.input_ids, attention_mask=mask.long())
        for handle in handles:
            handle.remove()
        x = seen["x"].reshape(*mask.shape, -1)[mask]
        y = seen["y"].reshape(*mask.shape, -1)[mask]
        squares = seen["h"].reshape(*mask.shape, -1)[mask].pow(2).mean(-1)
        if best:
            scale = squares.rsqrt().unsqueeze(1).double()
            inputs, wanted = x[:, kept.neurons[layer]] * scale, (y - new_down.bias) * scale
            solved = torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution
            return float((wanted - inputs @ solved).pow(2).sum())
        error = (y - new_down(x[:, kept.neurons[layer]])).pow(2).sum(-1)
    return float((error.double() / squares).sum())


@pytest.mark.parametrize("kind", ["llama", "opt", "bert"])
def test_padding_never_counts_nor_does_the_split(kind: str, small: Small, rows: Rows) -> None:
    model, kept, batch = small(kind), some_neurons(), rows(9, 31, 7)
    inside = batch.documents >= 0
    garbage = replace(batch, input_ids=torch.where(inside, batch.input_ids, 7))
    found = []
    for batches in ([batch], [garbage], [batch.rows(0, 1), batch.rows(1, 3)]):
        narrow = cut(model, kept)
        repair(narrow, model, kept, batches)
        found.append(weights(narrow))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


def test_layers_in_groups_are_refitted_as_all_at_once(
    small: Small, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer is fitted to the model that was cut, so what goes first does not matter."""
    model, batch = small(), rows(9, 31)
    kept = replace(some_neurons(), layers=(0, 2), hidden=torch.arange(0, 16, 2))
    found = []
    for share in (0.0, 100.0):
        monkeypatch.setattr(repairing, "MEMORY_SHARE", share)
        narrow = cut(model, kept)
        repair(narrow, model, kept, iter([batch]))
        found.append(weights(narrow))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    untouched = cut(model, kept)
    changed = {n for n, v in found[0].items() if not torch.equal(v, untouched.state_dict()[n])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}


def test_a_repair_without_text_is_refused(small: Small) -> None:
    model, kept = small(), some_neurons()
    with pytest.raises(UsageError, match="there is none"):
        repair(cut(model, kept), model, kept, [])
