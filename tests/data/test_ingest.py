from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Encoder
from nexus.data.faults import OnBadRow
from nexus.data.ingest import Ingest
from nexus.data.packing import OverLong
from nexus.data.sources import InMemory
from nexus.errors import UsageError


def _ingest(
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Any],
    over_long: OverLong = "error",
    on_bad_row: OnBadRow = "skip",
) -> Ingest:
    return Ingest(
        InMemory(data=list(rows)),
        Encoder(tokenizer),
        Path(),
        length=8,
        over_long=over_long,
        on_bad_row=on_bad_row,
    )


def test_everything_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ["abc", 7, {"text": None}, "d" * 15, {"prompt": "p", "completion": "<|im_end|>"}]
    ingest = _ingest(tokenizer, rows, over_long="truncate")
    assert [len(example) for example in ingest.examples()] == [4, 8, 8]
    summary = ingest.summary()
    assert (summary.rows, summary.examples, summary.tokens) == (5, 3, 20)
    # abc and EOS without the first, 7 of the 8 d's, all of the cut completion
    assert summary.target_tokens == 3 + 7 + 7
    assert (summary.truncated, summary.escaped, summary.skipped) == (2, 1, 2)
    assert (summary.used, summary.dropped) == (3, 0)
    assert [fault.place for fault in summary.skipped_rows] == ["data[1]", "data[2]"]
    assert summary.truncated_share == 2 / 3


@pytest.mark.parametrize(
    ("over_long", "lengths", "split", "dropped"),
    [("split", [8, 8, 4], 1, 0), ("truncate", [8, 4], 0, 0), ("drop", [4], 0, 1)],
)
def test_long_rows(
    tokenizer: PreTrainedTokenizerFast,
    over_long: OverLong,
    lengths: list[int],
    split: int,
    dropped: int,
) -> None:
    ingest = _ingest(tokenizer, ["d" * 15, "abc"], over_long)
    assert [len(example) for example in ingest.examples()] == lengths
    assert (ingest.summary().split, ingest.summary().dropped) == (split, dropped)


def test_a_piece_without_a_target_is_no_document(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [len(example) for example in _ingest(tokenizer, ["d" * 8], "split").examples()] == [8]


def test_an_answer_cut_away_is_a_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "p" * 9, "completion": "c"}, "abc"]
    ingest = _ingest(tokenizer, rows, "truncate")
    assert len(list(ingest.examples())) == 1
    assert "no target left" in ingest.summary().skipped_rows[0].reason
    with pytest.raises(UsageError, match=r"data\[0\]: .*no target left"):
        list(_ingest(tokenizer, rows, "truncate", "error").examples())


@pytest.mark.parametrize(
    ("rows", "over_long", "reason"),
    [
        ([], "error", "data: the data set is empty"),
        ([{"text": None}], "error", r"1 of 1 were skipped, the first \(data\[0\]\) because"),
        (["d" * 15], "drop", "1 dropped, being over sequence_length 8"),
    ],
)
def test_nothing_to_use_is_an_error(
    tokenizer: PreTrainedTokenizerFast, rows: list[Any], over_long: OverLong, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        list(_ingest(tokenizer, rows, over_long).examples())


def test_all_rows_are_checked_before_the_bad_ones_are_told(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Break `settle` in `Ingest.examples` to let a run begin that has lost rows."""
    rows: list[Any] = ["fine"] * 10 + [7] * 30 + ["fine"]
    ingest = _ingest(tokenizer, rows, on_bad_row="error")
    found = []
    with pytest.raises(UsageError, match=r"data: 30 of 41 rows cannot be used") as caught:
        for example in ingest.examples():
            found.append(example)
    assert len(found) == 11
    listed = [f"data[{number}]: " for number in range(10, 30)]
    assert all(place in str(caught.value) for place in listed)
    assert "data[30]" not in str(caught.value)


def test_another_pass_counts_anew(tokenizer: PreTrainedTokenizerFast) -> None:
    ingest = _ingest(tokenizer, ["abc", 7])
    for _ in range(2):
        list(ingest.examples())
        assert (ingest.summary().rows, ingest.summary().skipped) == (2, 1)
