"""Layers that stay: tried on the text where that can be, and what was tried serves every depth."""

from __future__ import annotations

import contextlib
import json
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning import depth_search
from nexus.pruning.depth import keep_layers
from nexus.pruning.depth_search import Deletions, rank_layers
from nexus.pruning.families import family_of
from nexus.pruning.importance import measure
from nexus.pruning.layer_choice import FILE_NAME, LayerChoice
from nexus.pruning.progress import Notebook
from nexus.pruning.prune import prune
from nexus.pruning.sizes import Sizes

HERE = Path(__file__)
tiny = runpy.run_path(str(HERE.with_name("test_slice.py")))["tiny"]
DEPTH = runpy.run_path(str(HERE.with_name("test_depth_search.py")))
asked, loss = DEPTH["asked"], DEPTH["loss"]
Rows = Callable[..., Batch]


@pytest.mark.parametrize("strategy", ["activation", "taylor", "magnitude", "random", "reversed"])
def test_layers_are_tried_on_the_text_but_for_baselines(
    monkeypatch: pytest.MonkeyPatch, strategy: Any, rows: Rows
) -> None:
    """To see it fail: in LayerChoice._told, return `likely` always, or never."""
    monkeypatch.setattr(depth_search, "CLEARLY", 0.0)
    model, text = tiny("llama", num_hidden_layers=6), [asked(rows(13, 16))]
    before = Sizes.of(model.config, family_of(model))
    made = prune(model, text, sizes=replace(before, layers=2), strategy=strategy, repair=False)
    likely = tuple(made.scores.layers.topk(2).indices.sort().values.tolist())
    if strategy in ("random", "reversed"):
        assert made.kept.layers == likely
        return
    blocks = [tuple(n for n in range(6) if not at <= n < at + 4) for at in range(3)]
    singly = rank_layers(model, text, "perplexity", 2)
    losses = {kept: loss(keep_layers(model, kept), text[0]) for kept in (likely, *blocks, singly)}
    block = min(blocks, key=lambda kept: losses[kept])
    tried = (likely,) if losses[likely] < losses[block] else (block, singly)
    assert made.kept.layers == min(tried, key=lambda kept: losses[kept])
    alone = prune(
        model, [], sizes=replace(before, layers=2), scores=made.scores, strategy=strategy,
        repair=False,
    )  # fmt: skip
    assert alone.kept.layers == likely


@pytest.mark.parametrize("counts", [(5, 2, 4, 1), (1, 5), (3, 3)])
def test_what_went_for_one_depth_is_not_tried_again_for_another(
    monkeypatch: pytest.MonkeyPatch, counts: Sequence[int], rows: Rows
) -> None:
    """And each depth keeps what it keeps alone.

    To see it fail: in LayerChoice, make the trials anew each time; in Trials.singly, return what
    is left after all that went.
    """
    tried: list[int] = []
    plain = Deletions.without

    def without(self: Deletions, kept: Any, blocks: Any) -> Any:
        tried.append(len(blocks))
        return plain(self, kept, blocks)

    model, text = tiny("llama", num_hidden_layers=6), [asked(rows(13, 16))]
    alone = {count: rank_layers(model, text, "perplexity", count) for count in counts}
    monkeypatch.setattr(Deletions, "without", without)
    rank_layers(model, text, "perplexity", min(counts))
    deepest = sum(tried)
    tried.clear()
    choice = LayerChoice(model, text, measure(model, text), "perplexity")
    assert {count: choice(count) for count in counts} == alone
    assert sum(tried) == deepest
    assert choice(6) is None


@pytest.mark.parametrize("depth", [None, "perplexity"])
def test_a_choice_that_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: Any, rows: Rows
) -> None:
    """Stopped at every trial in turn: the same layers, and no layer that went is tried again.

    To see it fail: in LayerChoice, give Trials no notes; in Trials, restore what has gone alone.
    """
    monkeypatch.setattr(depth_search, "CLEARLY", 0.0)
    monkeypatch.setattr(depth_search, "SHORTLIST", 2)
    model, text = tiny("llama", num_hidden_layers=7), [asked(rows(13, 16))]
    scores = measure(model, text, strategy="magnitude")
    expected = {count: LayerChoice(model, text, scores, depth)(count) for count in (3, 2)}
    plain, calls, most = Deletions.without, [0], [0]

    def without(self: Deletions, kept: Any, blocks: Any) -> Any:
        calls[0] += 1
        if calls[0] > most[0]:
            raise KeyboardInterrupt
        return plain(self, kept, blocks)

    monkeypatch.setattr(Deletions, "without", without)
    for stop in range(30):
        folder = tmp_path / str(stop)
        calls[0], most[0] = 0, stop
        with contextlib.suppress(KeyboardInterrupt):
            LayerChoice(model, text, scores, depth, folder=folder)(3)
        calls[0], most[0] = 0, 99
        again = LayerChoice(model, text, scores, depth, folder=folder)
        assert {count: again(count) for count in (3, 2)} == expected
        calls[0], most[0] = 0, 0
        known = LayerChoice(model, text, scores, depth, folder=folder)
        assert {count: known(count) for count in (2, 3)} == expected


def test_layers_of_another_model_text_or_strategy_are_chosen_anew(
    tmp_path: Path, rows: Rows
) -> None:
    model, text = tiny("llama", num_hidden_layers=5), [asked(rows(13, 16))]
    scores = measure(model, text)
    LayerChoice(model, text, scores, "perplexity", folder=tmp_path)(2)
    file = tmp_path / FILE_NAME
    doctored = Notebook(file, json.loads(file.read_text())["key"])
    doctored.keep(kept={"2": [0, 9]})
    assert LayerChoice(model, text, scores, "perplexity", folder=tmp_path)(2) == (0, 9)
    others: list[tuple[Any, ...]] = [
        (tiny("llama", num_hidden_layers=5, rope_theta=5e3), text, scores, "perplexity"),
        (model, [asked(rows(13, 15))], scores, "perplexity"),
        (model, text, measure(model, text, strategy="magnitude"), "perplexity"),
        (model, text, scores, "contiguous"),
        (model, text, scores, None),
    ]
    for other in others:
        doctored.keep()
        assert LayerChoice(*other, folder=tmp_path)(2) == LayerChoice(*other)(2)


def test_an_encoder_tells_no_layers_by_what_next_tokens_lose(rows: Rows) -> None:
    model, text = tiny("bert"), [rows(9)]
    choice = LayerChoice(model, text, measure(model, text), "perplexity")
    with pytest.raises(UsageError, match="predicts none: choose block_influence"):
        choice(1)
