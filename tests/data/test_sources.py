from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from nexus.data.chat import Encoder
from nexus.data.faults import Fault, Faults
from nexus.data.sources import Hub, InMemory, Jsonl, LocalDataset, Parquet, Row, Source
from nexus.errors import UsageError

RECORDS = [{"text": f"text {number}"} for number in range(5)]


def _rows(source: Source, folder: Path) -> list[Row]:
    return list(source.rows(folder, Faults()))


def test_every_kind_gives_the_same_rows(
    tmp_path: Path, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl("rows.jsonl", RECORDS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "rows.parquet")
    data = datasets.Dataset.from_list(RECORDS)
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"dev": data}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "files").mkdir()
    (tmp_path / "rows.jsonl").rename(tmp_path / "files" / "train.jsonl")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    sources: list[Source] = [
        Jsonl(path="files/train.jsonl"),
        Parquet(path="rows.parquet"),
        LocalDataset(path="saved"),
        LocalDataset(path="splits", split="dev"),
        LocalDataset(path="files"),
        InMemory(data=RECORDS),
        InMemory(data=[record["text"] for record in RECORDS]),
        InMemory(data=data),
    ]
    for source in sources:
        assert [row.columns for row in _rows(source, tmp_path)] == RECORDS
        limited = source.model_copy(update={"limit": 2})
        assert [row.columns for row in _rows(limited, tmp_path)] == RECORDS[:2]


def test_places(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    write_jsonl("rows.jsonl", RECORDS)
    assert _rows(Jsonl(path="rows.jsonl"), tmp_path)[2].place == "rows.jsonl:3"
    assert _rows(InMemory(data=RECORDS, name="mine"), tmp_path)[2].place == "mine[2]"


@pytest.mark.parametrize(
    ("source", "fragments"),
    [
        (Jsonl(path="none.jsonl"), ("none.jsonl", "no such file", "Correct the path")),
        (Jsonl(path="folder"), ("folder", "kind: dataset")),
        (Parquet(path="none.parquet"), ("none.parquet", "Correct the path")),
        (Parquet(path="text.txt"), ("text.txt", "parquet", "Write it again")),
        (LocalDataset(path="none"), ("none", "no such directory")),
        (LocalDataset(path="text.txt"), ("text.txt", "kind: jsonl or parquet")),
        (LocalDataset(path="folder"), ("folder", "save_to_disk")),
        (LocalDataset(path="splits", split="dev"), ("splits", "'dev'", "train")),
        (Hub(name="nobody/nothing"), ("nobody/nothing", "train", "kind: dataset")),
    ],
)
def test_what_cannot_be_opened_is_named_with_a_remedy(
    tmp_path: Path, source: Source, fragments: tuple[str, ...]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("no parquet")
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(RECORDS)})
    splits.save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(UsageError) as caught:
        _rows(source, tmp_path)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_asks_for_what_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, subset: str | None, **rest: Any) -> Any:
        asked.update(name=name, subset=subset, **rest)
        data = datasets.Dataset.from_list(RECORDS)
        return data.to_iterable_dataset() if rest["streaming"] else data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = Hub(name="a/b", subset="c", split="d", revision="e", streaming=streaming)
    assert [row.columns for row in _rows(hub, tmp_path)] == RECORDS
    assert asked == {
        "name": "a/b",
        "subset": "c",
        "split": "d",
        "revision": "e",
        "streaming": streaming,
    }


@pytest.mark.parametrize("data", ["text", {"text": "a"}, 7, iter([])])
def test_only_lists_and_data_sets_are_rows(data: Any) -> None:
    with pytest.raises(UsageError, match="list of dicts or strings"):
        InMemory.parse({"data": data})


def test_a_row_in_memory_that_is_no_row_is_a_fault(tmp_path: Path) -> None:
    faults = Faults("skip")
    rows = list(InMemory(data=["fine", 7]).rows(tmp_path, faults))
    assert rows == [Row({"text": "fine"}, "data[0]")]
    assert faults.listed == [Fault("data[1]", "the row is a int, not a dict or a string")]


def _text(values: list[bytes]) -> pyarrow.Array:
    """A column of strings that nobody has looked at."""
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    buffers = [pyarrow.py_buffer(np.array(offsets, np.int32)), pyarrow.py_buffer(b"".join(values))]
    return pyarrow.StringArray.from_buffers(len(values), *buffers)


def test_bytes_in_parquet_that_are_no_text_cost_only_their_row(tmp_path: Path) -> None:
    table = pyarrow.table({"text": _text([b"fine", b"caf\xe9", b"fine too"])})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    faults = Faults("skip")
    rows = list(Parquet(path="rows.parquet").rows(tmp_path, faults))
    assert [row.place for row in rows] == ["rows.parquet[0]", "rows.parquet[2]"]
    ((place, reason),) = faults.listed
    assert place == "rows.parquet[1]" and "UTF8" in reason


def test_bytes_in_a_saved_data_set_that_are_no_text_cost_only_their_row(tmp_path: Path) -> None:
    table = pyarrow.table({"text": _text([b"fine", b"caf\xe9"])})
    datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(str(tmp_path / "saved"))
    faults = Faults("skip")
    rows = list(LocalDataset(path="saved").rows(tmp_path, faults))
    assert [row.columns for row in rows] == [{"text": "fine"}]
    assert [fault.place for fault in faults.listed] == ["saved[1]"]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pyarrow.array([1, 2]), "'text' is 1, not a string"),
        (pyarrow.array([b"a", b"b"]), "'text' is bytes, not a string"),
        (pyarrow.array([None, None], pyarrow.string()), "'text' is null, not a string"),
        (pyarrow.array([{"text": "a"}, None]), "'text' is {'text': 'a'}, not a string"),
        (pyarrow.array([["a"], []]), "'text' is ['a'], not a string"),
        (pyarrow.array([1, 2], pyarrow.timestamp("ns")), "'text' is "),
        (pyarrow.array([2**40, 0], pyarrow.timestamp("s")), "a value cannot be read"),
    ],
    ids=["number", "bytes", "null", "struct", "list", "time", "time beyond the calendar"],
)
def test_parquet_columns_of_another_type_are_named_by_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, column: pyarrow.Array, reason: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "rows.parquet")
    faults = Faults("skip")
    rows = Parquet(path="rows.parquet").rows(tmp_path, faults)
    list(Encoder(tokenizer).examples(rows, "", faults))
    assert faults.listed[0].place == "rows.parquet[0]"
    assert reason in faults.listed[0].reason


def test_a_conversation_in_parquet(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [{"messages": messages}, {"messages": None}, {"messages": [None]}]
    table = pyarrow.Table.from_pylist(records)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    faults = Faults("skip")
    rows = Parquet(path="rows.parquet").rows(tmp_path, faults)
    assert len(list(Encoder(tokenizer).examples(rows, "", faults))) == 1
    assert [fault.reason for fault in faults.listed] == [
        "'messages' is null, not a list",
        "messages[0] is null, not an object with 'role' and 'content'",
    ]


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match="two columns are called 'text'"):
        _rows(Parquet(path="rows.parquet"), tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    table = pyarrow.table({"text": [f"row {number}" for number in range(1000)]})
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table, path, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"row 500")] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"rows\.parquet: not a readable parquet file after"):
        _rows(Parquet(path="rows.parquet"), tmp_path)


def test_a_directory_with_bad_json_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UsageError, match="files: cannot be read as a data set.*kind: jsonl"):
        _rows(LocalDataset(path="files"), tmp_path)


def test_large_data_in_memory_is_named_not_written_out() -> None:
    assert InMemory(data=["a"]).model_dump()["data"] == ["a"]
    assert InMemory(data=["a"] * 101).model_dump()["data"] == "<list given in Python>"
