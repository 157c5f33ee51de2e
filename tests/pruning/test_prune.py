"""Pruning in one call: what comes out is what was asked for, and what must hold is proved."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.batch import Batch
from nexus.errors import NexusError, UsageError
from nexus.pruning import prune as module
from nexus.pruning.budget import Budget
from nexus.pruning.families import FAMILIES, family_of
from nexus.pruning.importance import measure
from nexus.pruning.prune import another_order, prune
from nexus.pruning.search import AXES
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import cut
from nexus.pruning.target import Target, Types
from nexus.ties import is_tied

SLICING = runpy.run_path(str(Path(__file__).with_name("test_slice.py")))
tiny, logits = SLICING["tiny"], SLICING["logits"]
DEPTH = runpy.run_path(str(Path(__file__).with_name("test_depth_search.py")))
asked, loss = DEPTH["asked"], DEPTH["loss"]
ENCODERS = ("bert", "roberta", "distilbert")
Rows = Callable[..., Batch]


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in ENCODERS])
def test_every_family_is_cut_to_its_target(kind: str, rows: Rows) -> None:
    model = tiny(kind)
    before = logits(model)
    axes = (*AXES, "groups")
    multiple = 4 if "mix" in kind else 2  # products by expert want rows of 16 bytes
    made = prune(
        model, [rows(9, 12)], target_params=0.75 * count(model), multiple=multiple, axes=axes
    )
    assert abs(count(made.model) / (0.75 * count(model)) - 1) <= 0.02
    assert type(made.model) is type(model)
    assert Sizes.of(made.model.config, family_of(model)) == made.sizes
    assert logits(made.model).isfinite().all()
    assert torch.equal(logits(model), before)
    outcomes = [proof.outcome for proof in made.findings]
    can_be_silenced = not {"silent or not"} & {proof.detail[-13:] for proof in made.findings}
    assert (
        outcomes == ["proved"] * 2 + ["proved" if can_be_silenced else "skipped"] + ["proved"] * 3
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_in_another_order_every_family_is_the_same_model(kind: str) -> None:
    model = tiny(kind)
    torch.testing.assert_close(
        logits(cut(model, another_order(model))), logits(model), atol=1e-4, rtol=1e-4
    )


def test_a_model_cut_to_its_own_size_is_itself(rows: Rows) -> None:
    model = tiny("llama")
    sizes = Sizes.of(model.config, family_of(model))
    made = prune(model, [rows(9)], sizes=sizes)
    assert torch.equal(logits(made.model), logits(model))


def test_scores_and_layers_serve_any_target(rows: Rows) -> None:
    model = tiny("llama")
    sizes = Sizes.of(model.config, family_of(model))
    scores = measure(model, [rows(9, 12)])
    again = prune(model, [], sizes=replace(sizes, neurons=20), scores=scores, repair=False)
    anew = prune(model, [rows(9, 12)], sizes=replace(sizes, neurons=20), repair=False)
    assert again.scores is scores
    best = {
        layer: values.topk(20).indices.sort().values for layer, values in scores.neurons.items()
    }
    for layer, kept in again.kept.neurons.items():
        assert torch.equal(kept, best[layer])
    assert anew.kept.neurons.keys() == again.kept.neurons.keys()
    shallow = prune(model, [rows(9)], sizes=replace(sizes, layers=2), depth="norm_ratio")
    assert shallow.kept.layers is not None and len(shallow.kept.layers) == 2


def test_neurons_that_are_dead_go_first_and_nothing_changes(rows: Rows) -> None:
    model = tiny("llama")
    sizes = Sizes.of(model.config, family_of(model))
    with torch.no_grad():
        for layer in model.model.layers:
            dead = torch.randperm(40)[:12]
            layer.mlp.up_proj.weight[dead] = 0
            layer.mlp.gate_proj.weight[dead] = 0
    for repair in (False, True):
        made = prune(model, [rows(9, 12)], sizes=replace(sizes, neurons=28), repair=repair)
        torch.testing.assert_close(logits(made.model), logits(model), atol=1e-4, rtol=1e-4)


def test_its_weights_are_of_the_type_asked_for_and_tied_as_before(rows: Rows) -> None:
    for tied in (True, False):
        model = tiny("llama", tie_word_embeddings=tied).bfloat16()
        model.tie_weights()
        sizes = replace(Sizes.of(model.config, family_of(model)), neurons=20)
        made = prune(model, [rows(9)], sizes=sizes, dtype=torch.float32)
        assert made.model.dtype == torch.float32 and model.dtype == torch.bfloat16
        assert is_tied(made.model) is tied


def test_it_says_what_it_is_doing(rows: Rows) -> None:
    said: list[str] = []
    model = tiny("llama")
    prune(model, [rows(9)], target_params=0.9 * count(model), multiple=2, say=said.append)
    assert said[0] == "measuring importance (activation)"
    begun = dict.fromkeys(each.split()[0] for each in said)
    assert list(begun) == ["measuring", "cutting", "refitting"]


def test_time_is_told_in_the_type_of_the_model_that_is_cut(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run the teacher may be in bfloat16, and its student is trained in float32.

    To see it fail: in latency.Latency.measure, make the smaller model in float32.
    """
    timed: list[torch.dtype] = []

    def clock(model: Any) -> float:
        timed.append(model.dtype)
        return count(model) * 1e-9

    monkeypatch.setattr("nexus.pruning.latency.seconds_a_token", clock)
    model = tiny("llama").bfloat16()
    target = Target(0.8, "latency")
    made = prune(model, [rows(9)], target=target, multiple=2, dtype=torch.float32)
    assert made.model.dtype == torch.float32 and set(timed) == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_student_itself(held: Any, dtype: Any, rows: Rows) -> None:
    """A share is one of the whole model as it is held. To see it fail: count in its type."""
    model = tiny("llama").to(held)
    whole = count(model) * held.itemsize
    share = 0.4 if (held, dtype) == (torch.float32, torch.bfloat16) else 0.8
    made = prune(model, [rows(9)], target=Target(share, "bytes"), multiple=2, dtype=dtype)
    there = sum(weight.numel() * weight.element_size() for weight in made.model.parameters())
    assert there / whole == pytest.approx(share, rel=0.02)
    assert made.met is not None and made.met.taken == there and made.met.whole == whole
    assert "it meets the target" in {each.name for each in made.findings}


def test_bytes_may_be_those_that_it_is_saved_in_later(rows: Rows) -> None:
    model, later = tiny("llama"), Types(saved=torch.bfloat16)
    made = prune(model, [rows(9)], target=Target(0.4, "bytes", later), multiple=2)
    assert made.model.dtype == torch.float32
    assert 2 * count(made.model) / (4 * count(model)) == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("dense", [[0, 1], [4, 5], [2]])
@pytest.mark.parametrize("budget", ["parameters", "bytes", "flops"])
def test_layers_of_two_kinds_meet_the_target_that_they_stay_for(
    dense: list[int], budget: Any, rows: Rows
) -> None:
    """On average a layer is far from either kind. To see it fail: in target.fitted, do nothing."""
    settings = {"num_hidden_layers": 6, "mlp_only_layers": dense, "intermediate_size": 96}
    model = tiny("qwen3_moe", **settings)
    made = prune(model, [rows(9, 12)], target=Target(0.5, budget), multiple=4, repair=False)
    assert made.kept.layers is not None and made.met is not None
    small, family = made.model, family_of(model)
    there = Budget(small, family, budget)(Sizes.of(small.config, family))
    whole = Budget(model, family, budget)(Sizes.of(model.config, family))
    assert there / whole == pytest.approx(0.5, rel=0.02) and made.met.taken == there
    assert made.findings[-2].outcome == "proved"


def test_a_target_or_a_shape_and_not_both(rows: Rows) -> None:
    model = tiny("llama")
    sizes = Sizes.of(model.config, family_of(model))
    for both in ({}, {"target_params": 1e4, "sizes": sizes}):
        with pytest.raises(UsageError, match="either target_params or a shape"):
            prune(model, [rows(9)], **both)


def test_without_text_importance_is_not_known() -> None:
    model = tiny("llama")
    with pytest.raises(UsageError, match="calibration text"):
        prune(model, [], target_params=0.9 * count(model), multiple=2)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nothing", "with nothing cut"),
        ("order", "in another order"),
        ("silent", "what goes can be silenced instead"),
        ("count", "as many parameters as its shape says"),
        ("tie", "embedding"),
    ],
)
def test_a_wrong_cut_is_noticed(
    fault: str, said: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults put into the cut: a layer that is lost, neurons that lie otherwise than said, norms
    that do not make up for a narrower stream, a stray tensor, a lost tie."""
    right = module.cut

    def wrong(model: Any, kept: Any, **settings: Any) -> Any:
        if fault == "nothing" and not kept.neurons:
            return right(model, replace(kept, layers=(0, 1, 1)))
        if fault == "order" and kept.neurons:
            return right(model, replace(kept, neurons={0: torch.zeros(40, dtype=torch.long)}))
        if fault == "silent" and kept.neurons:
            small = right(model, kept, **settings)
            for name, part in small.named_modules():
                if name.endswith("norm"):
                    part.weight.mul_((len(kept.hidden) / model.config.hidden_size) ** 0.5)
            return small
        small = right(model, kept, **settings)
        if fault == "count" and kept.neurons:
            small.stray = torch.nn.Parameter(torch.zeros(3))
        if fault == "tie" and kept.neurons:
            small.lm_head.weight = torch.nn.Parameter(small.lm_head.weight.clone())
        return small

    model = tiny("llama", tie_word_embeddings=True)
    sizes = Sizes.of(model.config, family_of(model))
    sizes = replace(sizes, neurons=20, hidden=36 if fault == "silent" else sizes.hidden)
    monkeypatch.setattr(module, "cut", wrong)
    with pytest.raises(NexusError, match=said):
        prune(model, [rows(9)], sizes=sizes, repair=False)
