from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data import rows as rows_module
from nexus.data.chat import Encoder, Example
from nexus.data.examples import Examples
from nexus.data.ingest import Ingest
from nexus.data.rows import Packed, Streamed
from nexus.data.sources import InMemory
from nexus.errors import UsageError

TEXTS = ["a" * size for size in (5, 2, 3, 6, 1, 4, 2, 5, 3)]


@pytest.fixture
def ingest(tokenizer: PreTrainedTokenizerFast) -> Ingest:
    return Ingest(InMemory(data=TEXTS), Encoder(tokenizer), Path(), length=8)


@pytest.fixture
def examples(ingest: Ingest) -> Examples:
    examples = Examples()
    for example in ingest.examples():
        examples.append(example)
    return examples


def _lengths(row: list[Example]) -> list[int]:
    return [len(example) for example in row]


@pytest.mark.parametrize(("packing", "in_order"), [(True, False), (True, True), (False, False)])
def test_packed_rows_hold_the_wanted_documents_once(
    examples: Examples, packing: bool, in_order: bool
) -> None:
    numbers = np.array([0, 2, 3, 5, 8])
    packed = Packed(examples, numbers, 8, packing=packing, in_order=in_order)
    found = [example.place for row in range(packed.size) for example in packed[row]]
    assert sorted(found) == [f"data[{number}]" for number in numbers]
    if in_order or not packing:
        assert found == sorted(found)
    if not packing:
        assert packed.size == len(numbers)


def test_a_stream_is_a_pure_function_of_the_row_number(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "STREAM_WINDOW", 4)
    stream = Streamed(ingest, 8)
    forwards = [[example.place for example in stream[n]] for n in range(20)]
    for number in (19, 3, 0, 7, 7, 2):
        assert [example.place for example in stream[number]] == forwards[number]
    assert all(sum(_lengths(stream[n])) <= 8 for n in range(20))


def test_a_stream_gives_every_document_once_an_epoch(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "STREAM_WINDOW", 4)
    stream = Streamed(ingest, 8, packing=False)
    places = [stream[n][0].place for n in range(2 * len(TEXTS))]
    assert places == [f"data[{number}]" for number in range(len(TEXTS))] * 2


def test_an_empty_stream_is_an_error_not_a_loop(tokenizer: PreTrainedTokenizerFast) -> None:
    ingest = Ingest(InMemory(data=[]), Encoder(tokenizer), Path(), length=8)
    with pytest.raises(UsageError, match="empty"):
        Streamed(ingest, 8)[0]
