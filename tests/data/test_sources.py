from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nexus.data.faults import Faults
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
    with pytest.raises(UsageError, match=r"data\[1\]: the row is a int"):
        _rows(InMemory(data=["fine", 7]), tmp_path)


def test_large_data_in_memory_is_named_not_written_out() -> None:
    assert InMemory(data=["a"]).model_dump()["data"] == ["a"]
    assert InMemory(data=["a"] * 101).model_dump()["data"] == "<list given in Python>"
