"""Fingerprints tell apart what differs, and only that."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from nexus.data.loader import Batches, DataSpec, load
from nexus.environment import data_summary, describe, fingerprint, tokenizer_fingerprint
from nexus.training.parallel import Parallel

WORKSPACE = runpy.run_path(str(Path(__file__).parent / "workspace.py"))


@pytest.fixture(scope="module")
def model() -> Any:
    return WORKSPACE["make_model"](layers=2, seed=1)


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        WORKSPACE["write_rows"](tmp_path / name / "rows.jsonl", [{"text": f"{name} more"}] * 3)
    WORKSPACE["write_rows"](tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": None}])
    spec = DataSpec.parse(
        {
            "sources": [
                {"kind": "jsonl", "path": path}
                for path in ("one/rows.jsonl", "two/rows.jsonl", "bad.jsonl")
            ],
            "on_bad_row": "skip",
            "sequence_length": 64,
        }
    )
    tokenizer = WORKSPACE["make_tokenizer"]()
    return load(spec, tokenizer, tmp_path, seed=0, tokens_per_step=64, micro_batch_rows=1)


def test_equal_weights_have_one_fingerprint(model: Any) -> None:
    assert fingerprint(model) == fingerprint(copy.deepcopy(model))


@pytest.mark.parametrize("change", ["value", "type", "seed"])
def test_other_weights_have_another_fingerprint(model: Any, change: str) -> None:
    other = copy.deepcopy(model)
    match change:
        case "value":
            with torch.no_grad():
                next(other.parameters()).view(-1)[0] += 1
        case "type":
            other.bfloat16()
        case "seed":
            other = WORKSPACE["make_model"](layers=2, seed=2)
    assert fingerprint(other) != fingerprint(model)


def test_a_tokenizer_is_told_apart_by_tokens_and_by_template() -> None:
    one, same, other = (WORKSPACE["make_tokenizer"]() for _ in range(3))
    other.chat_template = "{{ messages }}!"
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) != tokenizer_fingerprint(other)
    same.add_tokens(["<new>"])
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(same)


def test_a_tokenizer_is_told_apart_by_what_it_does_with_one_map() -> None:
    """Other merges give other ids to the same text."""
    vocabulary = {token: number for number, token in enumerate(["a", "b", "ab", "ba", "<unk>"])}
    one, other = (
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
        )
        for merges in ([("a", "b"), ("b", "a")], [("b", "a"), ("a", "b")])
    )
    assert one.get_vocab() == other.get_vocab()
    assert one("aba")["input_ids"] != other("aba")["input_ids"]
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(other)


def test_every_source_has_its_account_and_skipped_rows_their_place(batches: Batches) -> None:
    summary = data_summary(batches)
    assert len(summary) == 4  # three sources and the total
    skipped = [row for part in summary.values() for row in part.get("skipped_rows", [])]
    assert len(skipped) == 1 and "bad.jsonl:2" in skipped[0]
    assert summary["total"]["training tokens"] == batches.summary.train_tokens


def test_all_of_it_is_json(model: Any, batches: Batches) -> None:
    facts = describe(Parallel(), 3, model, WORKSPACE["make_tokenizer"](), batches, ["a notice"])
    assert json.loads(json.dumps(facts))["seed"] == 3
    assert facts["notices"] == ["a notice"]
    assert set(facts["fingerprints"]) == {"teacher", "tokenizer", "data"}
    assert facts["versions"]["torch"].startswith(torch.__version__.split("+")[0])
