from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Encoder
from nexus.data.corpus import read
from nexus.data.ingest import Ingest
from nexus.data.sources import InMemory
from nexus.errors import UsageError


def _ingest(tokenizer: PreTrainedTokenizerFast, rows: list[Any], task: str = "") -> Ingest:
    return Ingest(InMemory(data=rows, task=task), Encoder(tokenizer), Path(), length=8)


def test_tasks_are_packed_apart_in_order_of_appearance(tokenizer: PreTrainedTokenizerFast) -> None:
    sources = [
        _ingest(tokenizer, ["a", {"text": "b", "task": "own"}], "first"),
        _ingest(tokenizer, ["c"], "first"),
    ]
    corpus = read(sources, [], [_ingest(tokenizer, ["d"], "held")], length=8, packing=True)
    assert corpus.task_names == ("first", "own", "held")
    assert {task: rows.size for task, rows in corpus.train.items()} == {"first": 1, "own": 1}
    assert corpus.summary.rows == 2
    assert corpus.summary.packing_efficiency == 6 / 16
    assert (corpus.summary.train_tokens, corpus.summary.heldout_tokens) == (6, 2)


def test_contamination_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    train = [_ingest(tokenizer, ["a", "b", "c"])]
    corpus = read(train, [], [_ingest(tokenizer, ["b", "b", "x"])], length=8, packing=True)
    assert corpus.summary.contaminated == 2


def test_the_digest_covers_every_document_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    def digest(train: list[Any], heldout: list[Any]) -> bytes:
        sets = [_ingest(tokenizer, train)], [], [_ingest(tokenizer, heldout)]
        return read(*sets, length=8, packing=True).digest

    usual = digest(["a", "b"], ["c"])
    assert usual == digest(["a", "b"], ["c"])
    part = {"prompt": "a", "completion": "b"}
    whole = {"text": "ab"}
    others = [
        digest(["b", "a"], ["c"]),
        digest(["a", "x"], ["c"]),
        digest(["a", "b"], ["x"]),
        digest(["a"], ["b", "c"]),
        digest(["a", "b"], ["c", "c"]),
        digest(["a", {"text": "b", "task": "t"}], ["c"]),
        digest([part], ["c"]),
        digest([whole], ["c"]),
        digest([{"question": "a", "answer": "b"}], ["c"]),
    ]
    assert len({usual, *others}) == 1 + len(others)


def test_a_stream_needs_a_task_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UsageError, match=r"streamed and another source has its task"):
        read([_ingest(tokenizer, ["a"])], [_ingest(tokenizer, ["b"])], [], length=8, packing=True)
