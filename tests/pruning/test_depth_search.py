"""A layer left out by a stand-in costs what it costs without it, and the cheapest ones go."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification, PreTrainedModel

from nexus.batch import IGNORED, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import decoder_layers
from nexus.pruning import depth_search
from nexus.pruning.depth import keep_layers
from nexus.pruning.depth_search import (
    Deletions,
    Trials,
    norm_ratio,
    rank_layers,
    require_next_tokens,
)

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]


def asked(batch: Batch) -> Batch:
    """With the next token as target, wherever there is one."""
    later = torch.cat([batch.input_ids[:, 1:], batch.input_ids[:, :1]], dim=1)
    inside = batch.documents >= 0
    follows = inside & torch.cat([inside[:, 1:], inside[:, :1] & False], dim=1)
    return replace(batch, targets=torch.where(follows, later, IGNORED))


def loss(model: PreTrainedModel, batch: Batch) -> float:
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids).logits
    sums = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return float(sums)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt"])
def test_leaving_out_is_cutting_out(kind: str, small: Small, rows: Rows) -> None:
    """Also with what comes before computed once for all; and the model is as it was after."""
    settings = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
    model, batch = small(kind, **settings), asked(rows(9, 9))
    layers = list(decoder_layers(model))
    deletions = Deletions(model, [batch.rows(0, 1), batch.rows(1, 2)])
    for blocks in ([(0,), (1,), (3,)], [(3,)], [(0, 1), (1, 3)]):
        cut = {gone: loss(keep_layers(model, _less((0, 1, 3), gone)), batch) for gone in blocks}
        assert deletions.without((0, 1, 3), blocks) == pytest.approx(cut, rel=1e-4)
    assert deletions.loss((1, 3)) == pytest.approx(
        deletions.without((0, 1, 3), [(0,)])[(0,)], rel=1e-4
    )
    assert all(now is then for now, then in zip(decoder_layers(model), layers, strict=True))
    assert deletions.loss(range(4)) == pytest.approx(loss(model, batch), rel=1e-4)


def _less(kept: tuple[int, ...], gone: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(layer for layer in kept if layer not in gone)


def test_a_model_is_whole_again_when_a_trial_fails(small: Small, rows: Rows) -> None:
    model = small()
    layers = list(decoder_layers(model))
    too_large = replace(asked(rows(5)), input_ids=torch.full((1, 5), 99))
    with pytest.raises(IndexError):
        Deletions(model, [too_large]).loss((0, 2))
    assert list(decoder_layers(model)) == layers


def test_the_layers_that_do_nothing_go_first(small: Small, rows: Rows) -> None:
    """Two of six layers add nothing at all, side by side: every strategy finds them."""
    model, batch = small(num_hidden_layers=6), asked(rows(9, 12))
    with torch.no_grad():
        for layer in list(decoder_layers(model))[2:4]:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.zero_()
            layer.mlp.down_proj.bias.zero_()
    for strategy in ("block_influence", "perplexity", "contiguous"):
        kept = rank_layers(model, iter([batch]), strategy, 4)
        if strategy == "block_influence":
            assert kept == (0, 1, 4, 5)
        without = loss(keep_layers(model, kept), batch)
        assert without <= loss(model, batch) * (1 + 1e-4)
    assert norm_ratio(model, [batch])[2:4].tolist() == [1, 1]


def test_greedy_is_best_for_one_and_the_block_is_the_best_block(small: Small, rows: Rows) -> None:
    model, batch = small(num_hidden_layers=5), asked(rows(11, 8))
    every = list(itertools.combinations(range(5), 4))
    best = min(every, key=lambda kept: loss(keep_layers(model, kept), batch))
    assert rank_layers(model, [batch], "perplexity", 4) == best
    blocks = [(2, 3, 4), (0, 3, 4), (0, 1, 4), (0, 1, 2)]
    best = min(blocks, key=lambda kept: loss(keep_layers(model, kept), batch))
    assert rank_layers(model, [batch], "contiguous", 3) == best
    for strategy in ("block_influence", "norm_ratio", "perplexity", "contiguous"):
        assert rank_layers(model, [batch], strategy, 5) == (0, 1, 2, 3, 4)


class Growing(Deletions):
    """Layers that are missed the more, the more of their neighbours are gone."""

    def __init__(self, alone: list[float], together: float) -> None:
        self.layers, self.alone, self.together = len(alone), alone, together
        self.asked: list[int] = []

    def loss(self, kept: Sequence[int]) -> float:
        gone = [layer for layer in range(len(self.alone)) if layer not in kept]
        near = sum(1 / (b - a) ** 2 for a, b in itertools.combinations(gone, 2))
        return sum(self.alone[layer] for layer in gone) + self.together * near

    def without(
        self, kept: Sequence[int], blocks: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], float]:
        self.asked.append(len(blocks))
        return {gone: self.loss(_less(tuple(kept), gone)) for gone in blocks}


@given(st.lists(st.floats(0.1, 5), min_size=14, max_size=30), st.floats(0, 10), st.integers(1, 30))
def test_of_many_layers_the_one_that_is_missed_least_goes_each_time(
    alone: list[float], together: float, count: int
) -> None:
    """And later rounds do not try all.

    To see it fail: in Trials._promising, return nothing once some are tried.
    """
    count = min(count, len(alone))
    deletions = Growing(alone, together)
    best = tuple(range(len(alone)))
    while len(best) > count:
        every = deletions.without(best, [(layer,) for layer in best])
        best = _less(best, min(every, key=lambda gone: (every[gone], gone)))
    deletions.asked.clear()
    found = Trials(deletions).singly(count)
    assert deletions.loss(found) == pytest.approx(deletions.loss(best))
    assert not together or found == best
    rounds = len(alone) - count
    if not together:
        assert sum(deletions.asked) <= len(alone) + depth_search.SHORTLIST * max(0, rounds - 1)


@pytest.mark.parametrize("likely", [(0, 1, 2), (0, 2, 4), (1, 3, 4)])
def test_what_is_likely_is_kept_unless_a_block_is_clearly_missed_less(
    monkeypatch: pytest.MonkeyPatch, likely: tuple[int, ...], small: Small, rows: Rows
) -> None:
    """And the block unless layers that go singly clearly are.

    To see it fail: in depth_search.Trials.better, return `likely`, or the block.
    """
    model, batch = small(num_hidden_layers=5), asked(rows(11, 8))
    blocks = [(2, 3, 4), (0, 3, 4), (0, 1, 4), (0, 1, 2)]
    singly = rank_layers(model, [batch], "perplexity", 3)
    every = (likely, singly, *blocks)
    lost = {kept: loss(keep_layers(model, kept), batch) for kept in every}
    block = min(blocks, key=lambda kept: lost[kept])
    saved, more = (
        (lost[one] - lost[other]) / int(batch.target_count)
        for one, other in ((likely, block), (block, singly))
    )
    for clearly in (saved - 1e-4, saved + 1e-4):
        monkeypatch.setattr(depth_search, "CLEARLY", clearly)
        best = likely if clearly > saved else singly if more > clearly else block
        assert Trials.short(model, iter([batch])).better(likely) == best


def test_of_a_deep_cut_layers_go_singly_where_no_block_is_idle(small: Small, rows: Rows) -> None:
    """Two that do nothing lie apart, and the text is what the model itself would say.

    To see it fail: in depth_search.Trials.better, return the block.
    """
    model, batch = small(num_hidden_layers=5), asked(rows(11, 8))
    with torch.no_grad():
        for layer in (decoder_layers(model)[1], decoder_layers(model)[3]):
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.zero_()
            layer.mlp.down_proj.bias.zero_()
        for number in (0, 2, 4):
            decoder_layers(model)[number].mlp.down_proj.weight.mul_(10)  # type: ignore[operator]
        model.get_output_embeddings().weight.mul_(30)  # type: ignore[operator, union-attr]
        said = model(input_ids=batch.input_ids, position_ids=batch.position_ids).logits.argmax(-1)
    batch = replace(batch, targets=torch.where(batch.is_target, said, IGNORED))
    assert Trials.short(model, [batch]).better((1, 3, 4)) == (0, 2, 4)


def test_a_trial_reads_only_as_much_as_it_needs(
    monkeypatch: pytest.MonkeyPatch, small: Small, rows: Rows
) -> None:
    monkeypatch.setattr(depth_search, "TRIED_TOKENS", 12)

    def text() -> Iterator[Batch]:
        yield from (asked(rows(9)), asked(rows(9)))
        raise AssertionError("16 targets were enough")

    Trials.short(small(num_hidden_layers=3), text())


def test_norm_ratio_is_the_mean_over_real_tokens(small: Small, rows: Rows) -> None:
    model, batch = small(), rows(9, 4)
    alone = [replace(rows(9), input_ids=batch.input_ids[:1])]
    alone += [replace(rows(4), input_ids=batch.input_ids[1:, :4])]
    ratios = []
    for one in alone:
        with torch.no_grad():
            states = model(input_ids=one.input_ids, output_hidden_states=True).hidden_states
        ratios.append((states[1].norm(dim=-1) / states[0].norm(dim=-1)).flatten())
    torch.testing.assert_close(norm_ratio(model, [batch])[0], torch.cat(ratios).mean())


def test_what_cannot_be_chosen_is_said(small: Small, rows: Rows) -> None:
    model = small()
    with pytest.raises(UsageError, match="4 layers cannot be kept of 3: choose 1 to 3"):
        rank_layers(model, [], "perplexity", 4)
    with pytest.raises(UsageError, match="something to predict, but there is none"):
        rank_layers(model, [rows(5)], "perplexity", 2)
    with pytest.raises(UsageError, match="needs calibration text"):
        rank_layers(model, [], "norm_ratio", 2)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_layers_of_an_encoder_are_told_apart_without_next_tokens(
    name: str, small: Small, rows: Rows
) -> None:
    """To see it fail: in rank_layers, do not call require_next_tokens, or read with split_head."""
    model = (
        small("bert")
        if name == "BertForMaskedLM"
        else BertForSequenceClassification(small("bert").config).eval()
    )
    batch = rows(9, 4)
    for strategy in ("perplexity", "contiguous"):
        with pytest.raises(UsageError, match=f"{name} predicts none: choose block_influence"):
            rank_layers(model, [asked(batch)], strategy, 2)  # type: ignore[arg-type]
    require_next_tokens(model, "norm_ratio")
    for strategy in ("block_influence", "norm_ratio"):
        kept = rank_layers(model, [batch], strategy, 2)  # type: ignore[arg-type]
        assert len(kept) == 2
        batch.input_ids[batch.documents < 0] = 7  # what pads the rows is never read
        assert rank_layers(model, [batch], strategy, 2) == kept  # type: ignore[arg-type]
    ratios = norm_ratio(model, [batch])
    batch.input_ids[batch.documents < 0] = 3
    torch.testing.assert_close(norm_ratio(model, [batch]), ratios)
