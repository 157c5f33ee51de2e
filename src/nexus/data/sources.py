"""Sources: where rows come from. Every row knows its place, so that every complaint can name it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_serializer, field_validator

from nexus.data.faults import Faults
from nexus.data.jsonl import read_jsonl
from nexus.errors import UsageError
from nexus.spec import Spec

MOST_ROWS_WRITTEN_OUT = 100


class Row(NamedTuple):
    """One record: its columns, and its place as `file.jsonl:7` (line) or `name[7]` (from 0)."""

    columns: dict[str, Any]
    place: str


class Source(Spec, ABC):
    """Rows to train or evaluate on."""

    task: str = ""
    """The task that the rows belong to, unless they have a column `task` of their own."""
    limit: int | None = Field(default=None, ge=1)
    """Use only so many rows, from the start."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What messages call this source."""

    @abstractmethod
    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        """All readable rows in order; those that cannot be read are added to `faults`.

        Args:
            folder: What relative paths are relative to: the folder of the recipe.
            faults: Receives the rows that cannot be read.

        Raises:
            UsageError: The source is missing or cannot be opened.
        """

    def rows(self, folder: Path, faults: Faults) -> Iterator[Row]:
        """As `read`, and at most `limit` rows."""
        return islice(self.read(folder, faults), self.limit)


class Jsonl(Source):
    """A file with one JSON object a line, in UTF-8."""

    kind: Literal["jsonl"] = "jsonl"
    path: str

    @property
    def label(self) -> str:
        return self.path

    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        path = resolve(self.path, folder, "file")
        for columns, place in read_jsonl(path, self.path, faults):
            yield Row(columns, place)


class Parquet(Source):
    """One parquet file; page checksums are verified where the file has them."""

    kind: Literal["parquet"] = "parquet"
    path: str

    @property
    def label(self) -> str:
        return self.path

    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]

        path = resolve(self.path, folder, "file")
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise UsageError(
                        f"{self.path}: two columns are called '{twice}'. Rename one of them."
                    )
                for row in _arrow_rows(file.iter_batches(batch_size=256), self.path, faults):
                    number += 1
                    yield row
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(
                f"{self.path}: not a readable parquet file after {number} rows ({error}). "
                "Write it again, or remove it from data.sources."
            ) from error


class LocalDataset(Source):
    """A directory made by `save_to_disk`, or one of data files that `load_dataset` understands."""

    kind: Literal["dataset"] = "dataset"
    path: str
    split: str = "train"

    @property
    def label(self) -> str:
        return self.path

    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        data = self._open(resolve(self.path, folder, "directory"))
        return _arrow_rows(data.with_format("arrow").iter(batch_size=256), self.path, faults)

    def _open(self, path: Path) -> Any:
        import datasets  # type: ignore[import-untyped]

        saved = any((path / mark).exists() for mark in ("state.json", "dataset_dict.json"))
        try:
            if not saved:
                return datasets.load_dataset(str(path), split=self.split)
            data = datasets.load_from_disk(str(path))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            why = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
            raise UsageError(
                f"{self.path}: cannot be read as a data set, split '{self.split}': {why}. Give a "
                "directory made by save_to_disk, or one of JSON, CSV or parquet files; kind: jsonl "
                "says which line of a file is wrong."
            ) from error
        if not isinstance(data, datasets.DatasetDict):
            return data
        if self.split not in data:
            raise UsageError(
                f"{self.path}: has no split '{self.split}'. Set split to one of: {', '.join(data)}."
            )
        return data[self.split]


class Hub(Source):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    """A commit, tag or branch. Name a commit to train on the same rows next year."""
    streaming: bool = False
    """Read while training, in order, instead of downloading all of it first."""

    @property
    def label(self) -> str:
        return self.name if self.subset is None else f"{self.name}/{self.subset}"

    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        import datasets

        try:
            data = datasets.load_dataset(
                self.name,
                self.subset,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )
            yield from _dataset_rows(data, self.label)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UsageError(
                f"{self.label}: split '{self.split}' cannot be read from the hub: {error}. "
                "Check name, subset, split and revision, the network, and `hf auth login` for "
                "gated data; or save the data set to a directory and use kind: dataset."
            ) from error


class InMemory(Source):
    """Rows already in the process: dicts, strings (plain texts) or a Hugging Face data set."""

    kind: Literal["memory"] = "memory"
    data: Any
    name: str = "data"
    """What messages call the rows: `name[7]`."""

    @property
    def label(self) -> str:
        return self.name

    @field_validator("data")
    @classmethod
    def _is_rows(cls, data: Any) -> Any:
        if isinstance(data, str | bytes | dict | Iterator) or not isinstance(data, Iterable):
            raise ValueError(
                f"rows in memory are a list of dicts or strings, or a data set, not a {type(data)}"
            )
        return data

    @field_serializer("data")
    def _described(self, data: Any) -> Any:
        """A resolved recipe names large data instead of holding it."""
        if isinstance(data, list | tuple) and len(data) <= MOST_ROWS_WRITTEN_OUT:
            return list(data)
        return f"<{type(data).__name__} given in Python>"

    def read(self, folder: Path, faults: Faults) -> Iterator[Row]:
        for number, item in enumerate(self.data):
            place = f"{self.label}[{number}]"
            match item:
                case str():
                    yield Row({"text": item}, place)
                case Mapping():
                    yield Row(dict(item), place)
                case _:
                    faults.add(place, f"the row is a {type(item).__name__}, not a dict or a string")


AnySource = Annotated[Jsonl | Parquet | LocalDataset | Hub | InMemory, Field(discriminator="kind")]
"""The one list of the kinds of source."""


def resolve(path: str, folder: Path, what: Literal["file", "directory"]) -> Path:
    """The path relative to `folder`, which must exist and be a file or a directory."""
    resolved = folder / Path(path).expanduser()
    if not resolved.exists():
        raise UsageError(
            f"{path}: there is no such {what} in {folder.absolute()}. "
            "Correct the path; relative ones start there."
        )
    if resolved.is_dir() != (what == "directory"):
        found, kind = (
            ("file", "jsonl or parquet") if what == "directory" else ("directory", "dataset")
        )
        raise UsageError(f"{path}: is a {found}, not a {what}. Use kind: {kind} for it.")
    return resolved


def _dataset_rows(data: Any, label: str) -> Iterator[Row]:
    number = 0
    for columns in data.iter(batch_size=1000):
        names = list(columns)
        for values in zip(*columns.values(), strict=True):
            yield Row(dict(zip(names, values, strict=True)), f"{label}[{number}]")
            number += 1


def _arrow_rows(batches: Iterable[Any], label: str, faults: Faults) -> Iterator[Row]:
    """The rows of Arrow data from a file, which may hold anything: checked before it is read."""
    first = 0
    for records in batches:
        try:
            rows = _checked(records)
        except (ValueError, OverflowError):
            yield from _one_by_one(records, label, first, faults)
        else:
            for number, columns in enumerate(rows, start=first):
                yield Row(columns, f"{label}[{number}]")
        first += len(records)


def _one_by_one(records: Any, label: str, first: int, faults: Faults) -> Iterator[Row]:
    for number in range(len(records)):
        place = f"{label}[{first + number}]"
        try:
            (columns,) = _checked(records.slice(number, 1))
        except (ValueError, OverflowError) as error:
            faults.add(place, f"a value cannot be read: {error}")
        else:
            yield Row(columns, place)


def _checked(records: Any) -> list[dict[str, Any]]:
    records.validate(full=True)
    rows: list[dict[str, Any]] = records.to_pylist()
    return rows
