"""Loading, seen from outside: what is written of rejected rows, and what a fingerprint covers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data import rows
from nexus.data.loader import Batches, DataSpec, load
from nexus.data.rejected import FILE_NAME
from nexus.errors import UsageError

LENGTH = 16
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.fixture
def read(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Batches]:
    def run(sources: list[dict[str, Any]], used: Any = tokenizer, **spec: Any) -> Batches:
        values = {"sources": sources, "sequence_length": LENGTH, "over_long": "truncate"}
        return load(
            DataSpec.parse(values | spec), used, tmp_path, rejected=tmp_path / FILE_NAME,
            seed=0, tokens_per_step=LENGTH * 4, micro_batch_rows=2,
        )  # fmt: skip

    return run


def _memory(*data: Any) -> dict[str, Any]:
    return {"kind": "memory", "data": list(data)}


def _places(folder: Path) -> list[str]:
    lines = (folder / FILE_NAME).read_text().splitlines()
    return [json.loads(line)["place"] for line in lines]


def test_rejected_rows_of_all_sources_are_written(
    tmp_path: Path, read: Callable[..., Batches]
) -> None:
    bad = [_memory("a", 1, "b", 2), _memory("a", {"txt": "b"}) | {"name": "more"}]
    heldout = [_memory("c", None) | {"name": "held"}]
    batches = read(bad, heldout=heldout, on_bad_row="skip")
    assert _places(tmp_path) == ["data[1]", "data[3]", "more[1]", "held[1]"]
    assert sum(s.skipped for s in (*batches.summary.train, *batches.summary.heldout)) == 4
    read([_memory("a")], on_bad_row="skip")
    assert not (tmp_path / FILE_NAME).exists()


def test_a_refused_run_leaves_no_file(tmp_path: Path, read: Callable[..., Batches]) -> None:
    with pytest.raises(UsageError, match=r"data\[1\]"):
        read([_memory("a", 1)])
    with pytest.raises(UsageError, match="no row can be used"):
        read([_memory("a", 1), _memory(2)], on_bad_row="skip")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Six windows of ten rows, of which the twenty-fifth is no row."""
    data = [{"text": f"row {number}"} for number in range(60)]
    data[25] = {"text": " "}
    made = datasets.Dataset.from_list(data)
    monkeypatch.setattr(rows, "STREAM_WINDOW", 10)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made.to_iterable_dataset())
    return {"kind": "hub", "name": "a/b", "streaming": True}


def test_a_bad_row_of_a_stream_stops_the_run_when_it_is_reached(
    read: Callable[..., Batches], stream: dict[str, Any]
) -> None:
    """Break `settle` in `Streamed._next_window` to see it pass over the row without a word."""
    batches = read([stream], packing=False)
    for step in range(5):
        batches.take(step)
    with pytest.raises(UsageError, match=r"a/b\[25\]: 'text' is empty"):
        batches.take(5)


def test_skipped_rows_of_a_stream_are_written_once_when_they_are_reached(
    tmp_path: Path, read: Callable[..., Batches], stream: dict[str, Any]
) -> None:
    batches = read([stream], packing=False, on_bad_row="skip")
    assert not (tmp_path / FILE_NAME).exists()
    for step in (5, 0, 5, 1, 14):
        batches.take(step)
    assert _places(tmp_path) == ["a/b[25]"]


def test_a_stream_is_covered_as_far_as_it_is_counted(
    read: Callable[..., Batches], stream: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = read([stream], on_bad_row="skip")
    assert usual.summary.train[0].streamed and usual.summary.train[0].examples == 10
    for changed, differs in ((9, True), (10, False)):
        data = [{"text": f"row {n}" if n != changed else "other"} for n in range(60)]
        made = datasets.Dataset.from_list(data).to_iterable_dataset()
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, made=made, **__: made)
        again = read([stream], on_bad_row="skip")
        assert (again.fingerprint != usual.fingerprint) == differs


PAIR = {"prompt": "ab", "completion": "cd"}


def test_whatever_changes_what_is_learnt_changes_the_fingerprint(
    read: Callable[..., Batches],
) -> None:
    """All of these differ: tokens, targets, parts, tasks, order, held-out rows and options.

    Break: one of the columns in `Examples.digest`.
    """
    pair = _memory(PAIR, "b")
    different: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (pair, {}),
        (_memory("b", PAIR), {}),
        (_memory({"text": "abcd"}, "b"), {}),
        (_memory({"prompt": "abc", "completion": "d"}, "b"), {}),
        (_memory({"question": "ab", "answer": "cd"}, "b"), {}),
        (_memory({"question": "a", "rationale": "b", "answer": "cd"}, "b"), {}),
        (_memory({"question": "a", "answer": "b\ncd"}, "b"), {}),
        (_memory(PAIR | {"task": "t"}, "b"), {}),
        (_memory(PAIR, "b", "b"), {}),
        (pair, {"heldout": [_memory("h")]}),
        (pair, {"heldout": [_memory("i")]}),
        (pair, {"packing": False}),
        (pair, {"sequence_length": 32}),
        (pair, {"special_tokens": "parse"}),
        (pair, {"over_long": "drop"}),
    ]
    prints = [read([source], **spec).fingerprint for source, spec in different]
    assert len(set(prints)) == len(different)
    assert prints == [read([source], **spec).fingerprint for source, spec in different]


def test_another_template_is_other_data(
    read: Callable[..., Batches],
    make_tokenizer: Any,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    other = make_tokenizer(str(tokenizer.chat_template).replace("\n", " "))
    row = _memory({"messages": TURNS})
    prints = {read([row], used, sequence_length=64).fingerprint for used in (tokenizer, other)}
    assert len(prints) == 2
