"""The table of cuts is of the cuts that it names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from material import write_teacher
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus.batch import IGNORED
from pruning import DEPTH_WAYS, described, main, perplexity, rows_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model, and text for it."""
    write_teacher(None, tmp_path / "model", tiny=True)
    for name in ("wikitext2/valid.jsonl", "wiki_demo/train.jsonl"):
        path = tmp_path / name
        path.parent.mkdir()
        line = json.dumps({"text": "the of and a to in is that for it " * 60})
        path.write_text("".join(f"{line}\n" for _ in range(4)))
    return tmp_path


def test_rows_predict_the_next_token_and_perplexity_is_theirs(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    batches = rows_of(folder / "wikitext2" / "valid.jsonl", tokenizer, 3, length=64)
    assert sum(len(batch.input_ids) for batch in batches) == 3
    first = batches[0]
    assert torch.equal(first.targets[:, :-1], first.input_ids[:, 1:])
    assert bool((first.targets[:, -1] == IGNORED).all())
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        losses = [model(input_ids=b.input_ids, labels=b.input_ids).loss.item() for b in batches]
    assert perplexity(model, batches) == pytest.approx(math.exp(losses[0]), rel=1e-3)


def test_every_way_is_in_the_table(folder: Path) -> None:
    main(
        folder / "model", folder, cases=("ffn-40", "depth-1"), dtype="float32",
        output=folder / "table",
    )  # fmt: skip
    rows = json.loads((folder / "table.json").read_text())["rows"]
    ways = [(row["case"], row["way"].split()[0], row["repaired"]) for row in rows]
    assert ways[0][0] == "nothing cut"
    for strategy in ("activation", "weighted", "magnitude", "random", "reversed"):
        assert ("FFN −40 %", strategy, "no") in ways and ("FFN −40 %", strategy, "yes") in ways
    for strategy in DEPTH_WAYS:
        assert ("depth −1", strategy, "–") in ways
    whole = rows[0]["parameters"]
    assert all(row["parameters"] < whole for row in rows[1:])
    assert all(math.isfinite(row["perplexity"]) for row in rows)
    main(
        folder / "model", folder, cases=("depth-1",), strategies=("contiguous",), dtype="float32",
        output=folder / "table",
    )  # fmt: skip
    again = json.loads((folder / "table.json").read_text())["rows"]
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]
    assert described([], [], [], "a model").startswith("# Perplexity right after a cut")
