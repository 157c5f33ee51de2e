"""Scores are what they say, of real tokens alone, and a file gives back what was put into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.pruning.depth import block_influence
from nexus.pruning.importance import STRATEGIES, Scores, measure, strategy_named

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]
KINDS = ("llama", "gemma2", "gpt2", "opt", "bert", "qwen3_moe")
BY_LAYER = ("neurons", "heads", "groups", "experts", "expert_neurons")


def vectors(scores: Scores) -> dict[str, Tensor]:
    return {"layers": scores.layers, "hidden": scores.hidden} | {
        f"{name}.{layer}": value
        for name in BY_LAYER
        for layer, value in getattr(scores, name).items()
    }


def assert_alike(ours: Scores, theirs: Scores) -> None:
    assert ours.tokens == theirs.tokens
    assert vectors(ours).keys() == vectors(theirs).keys()
    for name, value in vectors(ours).items():
        torch.testing.assert_close(value, vectors(theirs)[name], rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_split_into_batches_do_not_count(
    kind: str, small: Small, rows: Rows
) -> None:
    model, batch = small(kind), rows(9, 4, 6)
    inside = batch.documents >= 0
    garbage = replace(batch, input_ids=torch.where(inside, batch.input_ids, 7))
    whole = measure(model, [batch])
    assert whole.tokens == 19
    assert_alike(measure(model, [garbage]), whole)
    assert_alike(measure(model, [batch.rows(0, 1), batch.rows(1, 3)]), whole)
    alone = rows(4)
    alone = replace(alone, input_ids=batch.input_ids[1:2, :4])
    first = measure(model, [batch.rows(1, 2)])
    assert_alike(first, measure(model, [alone]))


def test_every_axis_has_scores_where_a_layer_has_it(small: Small, rows: Rows) -> None:
    scores = measure(small("qwen3_moe"), [rows(9, 7)])
    assert scores.hidden.shape == (16,) and scores.layers.shape == (3,)
    assert {n: tuple(v.shape) for n, v in scores.neurons.items()} == {1: (24,)}
    assert {n: tuple(v.shape) for n, v in scores.experts.items()} == {0: (4,), 2: (4,)}
    assert {n: tuple(v.shape) for n, v in scores.expert_neurons.items()} == {0: (4, 12), 2: (4, 12)}
    assert {n: tuple(v.shape) for n, v in scores.groups.items()} == dict.fromkeys(range(3), (2,))
    for value in vectors(scores).values():
        assert value.dtype == torch.float32 and bool((value >= 0).all()) and value.std() > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_closed_form_layer_by_layer(kind: str, small: Small, rows: Rows) -> None:
    """One row, one layer: the definition written out on the model's own hidden states."""
    model, batch = small(kind), rows(8)
    layer = model.model.layers[1] if kind == "llama" else model.transformer.h[1]
    down, out = (
        (layer.mlp.down_proj, layer.self_attn.o_proj)
        if kind == "llama"
        else (layer.mlp.c_proj, layer.attn.c_proj)
    )
    seen: dict[str, Tensor] = {}
    down.register_forward_hook(lambda _, args, __: seen.update(neurons=args[0][0]))
    out.register_forward_hook(lambda _, args, __: seen.update(heads=args[0][0]))
    layer.register_forward_hook(lambda _, __, output: seen.update(stream=output[0]))
    with torch.no_grad():
        model(input_ids=batch.input_ids)
    size = seen["stream"].pow(2).mean(-1).sqrt()
    neurons = (seen["neurons"].abs() / size[:, None]).mean(0)
    heads = (seen["heads"].view(8, 4, 4).pow(2).sum(-1).sqrt() / size[:, None]).mean(0)
    relative, plain = measure(model, [batch]), measure(model, [batch], relative=False)
    torch.testing.assert_close(relative.neurons[1], neurons)
    torch.testing.assert_close(relative.heads[1], heads)
    torch.testing.assert_close(plain.neurons[1], seen["neurons"].abs().mean(0))
    groups = 2 if kind == "llama" else 4
    squares = relative.heads[1].pow(2).view(groups, -1).sum(1)
    torch.testing.assert_close(relative.groups[1], squares.sqrt())


@pytest.mark.parametrize(
    ("aggregate", "over_tokens", "over_rows"),
    [
        (("mean", "l2"), lambda x: x.mean(0), lambda x: x.pow(2).sum(0).sqrt()),
        (("l2", "mean"), lambda x: x.pow(2).sum(0).sqrt(), lambda x: x.mean(0)),
        (
            ("variance", "variance"),
            lambda x: x.var(0, correction=0),
            lambda x: x.var(0, correction=0),
        ),
    ],
)
def test_aggregation_is_over_tokens_then_over_rows(
    aggregate: tuple[str, str],
    over_tokens: Callable[[Tensor], Tensor],
    over_rows: Callable[[Tensor], Tensor],
    small: Small,
    rows: Rows,
) -> None:
    model, batch = small(), rows(9, 5, 7)
    seen: list[Tensor] = []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda _, a, __: seen.append(a[0]))
    scores = measure(model, [batch], aggregate=aggregate, relative=False)
    each = [over_tokens(seen[0][row, :count].abs()) for row, count in enumerate((9, 5, 7))]
    torch.testing.assert_close(
        scores.neurons[0], over_rows(torch.stack(each)), rtol=1e-4, atol=1e-6
    )


def test_layers_are_block_influence(small: Small, rows: Rows) -> None:
    model, batch = small(), rows(9, 5)
    torch.testing.assert_close(measure(model, [batch]).layers, block_influence(model, [batch]))


def test_what_never_speaks_is_worth_nothing(small: Small, rows: Rows) -> None:
    """An expert that no token is sent to, a neuron and a channel that are always zero."""
    model = small("qwen3_moe")
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight[2] = 0
        model.model.layers[0].mlp.experts.down_proj[1] = 0
        model.model.layers[1].mlp.up_proj.weight[5] = 0
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.shape == (16,):
                parameter[3] = 0
    scores = measure(model, [rows(9, 9)])
    assert scores.experts[0][1] == 0 and scores.neurons[1][5] == 0 and scores.hidden[3] == 0
    assert scores.expert_neurons[0][1].sum() > 0


def test_an_experts_score_is_gate_times_norm(small: Small, rows: Rows) -> None:
    """With every expert asked, gates sum to one, and twins with equal gates have equal scores."""
    model, batch = small("qwen3_moe", num_experts_per_tok=4), rows(6)
    experts = model.model.layers[0].mlp.experts
    seen: dict[str, Tensor] = {}
    experts.register_forward_hook(
        lambda _, args, __: seen.update(hidden=args[0], index=args[1], gates=args[2])
    )
    scores = measure(model, [batch], relative=False)
    for expert in range(4):
        gate, up = (seen["hidden"] @ experts.gate_up_proj[expert].T).chunk(2, -1)
        inner = torch.nn.functional.silu(gate) * up
        share = seen["gates"][seen["index"] == expert]
        strength = share * (inner @ experts.down_proj[expert].T).norm(dim=1)
        torch.testing.assert_close(scores.experts[0][expert], strength.mean(), rtol=1e-4, atol=0)
        torch.testing.assert_close(scores.expert_neurons[0][expert], inner.abs().mean(0))


def test_strategies_differ_as_they_say(small: Small, rows: Rows) -> None:
    model, batch = small(), rows(9, 5)
    plain = measure(model, [batch])
    turned = measure(model, [batch], strategy="reversed")
    assert all(torch.equal(value, -vectors(plain)[name]) for name, value in vectors(turned).items())
    weighted = measure(model, [batch], strategy="weighted")
    norm = model.model.layers[2].mlp.down_proj.weight.norm(dim=0)
    torch.testing.assert_close(weighted.neurons[2], plain.neurons[2] * norm)
    groups = len(plain.groups[2])
    for scores in (plain, weighted):  # a group is worth what its heads are
        heads = scores.heads[2].view(groups, -1)
        torch.testing.assert_close(scores.groups[2], heads.norm(dim=1))
    for strategy in ("magnitude", "random"):
        scores = measure(model, [], strategy=strategy)
        assert vectors(scores).keys() == vectors(plain).keys() and scores.tokens == 0
    other = measure(model, [], strategy="random", seed=1)
    again = measure(model, [], strategy="random", seed=1)
    assert torch.equal(other.hidden, again.hidden) and not torch.equal(other.hidden, scores.hidden)


def test_what_cannot_be_measured_is_said(small: Small, rows: Rows) -> None:
    with pytest.raises(UsageError, match="'best' is unknown. Known: activation, weighted"):
        strategy_named("best")
    assert [strategy_named(name) for name in STRATEGIES] == list(STRATEGIES)
    with pytest.raises(UsageError, match="calibration text, but there is none"):
        measure(small(), [])
    packed = replace(rows(6), documents=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    with pytest.raises(UsageError, match="several documents"):
        measure(small("bert"), [packed])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_file_gives_back_what_was_put_into_it(
    strategy: str, small: Small, rows: Rows, tmp_path: Path
) -> None:
    text = rows(6)
    text.targets.copy_(text.input_ids)
    scores, path = measure(small("qwen3_moe"), [text], strategy=strategy), tmp_path / "scores"
    scores.save(path, model_fingerprint="m", data_fingerprint="d")
    found = Scores.load(path, model_fingerprint="m", data_fingerprint="d")
    assert (found.tokens, found.strategy) == (scores.tokens, strategy)
    assert vectors(found).keys() == vectors(scores).keys()
    for name, value in vectors(found).items():
        assert torch.equal(value, vectors(scores)[name])


def test_another_models_scores_and_damaged_ones_are_refused(
    small: Small, rows: Rows, tmp_path: Path
) -> None:
    path = tmp_path / "scores.safetensors"
    with pytest.raises(UsageError, match="no importance scores at"):
        Scores.load(path, model_fingerprint="m", data_fingerprint="d")
    measure(small(), [rows(6)]).save(path, model_fingerprint="m", data_fingerprint="d")
    for model, data, said in (("x", "d", "other weights"), ("m", "x", "other data")):
        with pytest.raises(UsageError, match=said):
            Scores.load(path, model_fingerprint=model, data_fingerprint=data)
    whole = path.read_bytes()
    at = len(whole) - 5
    for damaged in (whole[:-9], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match="scores.safetensors"):
            Scores.load(path, model_fingerprint="m", data_fingerprint="d")
