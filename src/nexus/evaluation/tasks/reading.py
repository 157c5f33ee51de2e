"""Items from JSONL. Whatever is wrong with a row is said in one line, with its place and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nexus.data.faults import BadRow, Faults, unclean
from nexus.data.jsonl import read_jsonl
from nexus.data.sources import Row, resolve
from nexus.errors import UsageError
from nexus.evaluation.tasks.task import Item
from nexus.spec import nearest, shown

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_rows(path: str, folder: Path) -> list[Row]:
    """All rows of a file of items, each with an `id` of its own.

    Raises:
        UsageError: there is no such file, it is empty, or a row is no JSON object with an `id`.
    """
    faults = Faults()
    place = resolve(path, folder, "file")
    rows = [Row(columns, where) for columns, where in read_jsonl(place, path, faults)]
    seen: dict[str, str] = {}
    for row in rows:
        with_id = row.columns.get("id")
        if not isinstance(with_id, str | int) or isinstance(with_id, bool) or with_id == "":
            found = "is missing" if "id" not in row.columns else f"is {shown(with_id)}"
            faults.add(row.place, f"column 'id' {found}: give every row a string of its own")
        elif (first := seen.setdefault(str(with_id), row.place)) != row.place:
            faults.add(row.place, f"the id '{with_id}' is also that of {first}: ids must differ")
    _settle(faults)
    if not rows:
        raise UsageError(f"{path}: there is no item in it. Name a file with at least one row.")
    return rows


def read_items(rows: Sequence[Row], parse: Callable[[Row], Item]) -> list[Item]:
    """Each row as an item.

    Args:
        rows: what `read_rows` gave.
        parse: raises `BadRow` with what is wrong and what would be right.

    Raises:
        UsageError: naming the first row that is no item of this kind.
    """
    faults = Faults()
    items: list[Item] = []
    for row in rows:
        try:
            items.append(parse(row))
        except BadRow as bad:
            faults.add(row.place, str(bad))
    _settle(faults)
    return items


def text(row: Row, column: str, *, empty: bool = False) -> str:
    """A column that must be a string, and one that says something unless `empty`."""
    value = _present(row, column)
    if not isinstance(value, str):
        raise BadRow(f"column '{column}' is {shown(value)}: it must be a string")
    if not empty and not value.strip():
        raise BadRow(f"column '{column}' is empty: fill it in, or leave the row out")
    if reason := unclean(value):
        raise BadRow(f"column '{column}': {reason}: take it out")
    return value


def texts(row: Row, column: str, fewest: int) -> tuple[str, ...]:
    """A column that must be a list of at least `fewest` strings, none of them empty."""
    values = _present(row, column)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadRow(f"column '{column}' is {shown(values)}: it must be a list of strings")
    if len(values) < fewest:
        raise BadRow(f"column '{column}' has {len(values)}: give at least {fewest}")
    for number, value in enumerate(values):
        if not value.strip():
            raise BadRow(f"column '{column}'[{number}] is empty: fill it in, or leave the row out")
        if reason := unclean(value):
            raise BadRow(f"column '{column}'[{number}]: {reason}: take it out")
    return tuple(values)


def label(row: Row, column: str, count: int | None, of: str) -> int:
    """A column that must be a number from 0, below `count` if that is known."""
    value = _present(row, column)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"column '{column}' is {shown(value)}: it must be a whole number from 0")
    if value < 0 or (count is not None and value >= count):
        allowed = f"0 to {count - 1}, since there are {count} {of}" if count else "0 or more"
        raise BadRow(f"column '{column}' is {value}, which is out of range: it must be {allowed}")
    return value


def render(prompt: str, row: Row) -> str:
    """A prompt with its `{column}`s replaced by what the row holds there."""
    return _PLACEHOLDER.sub(lambda found: text(row, found[1], empty=True), prompt)


def key(row: Row) -> str:
    return str(row.columns["id"])


def _present(row: Row, column: str) -> Any:
    if column not in row.columns:
        hint = nearest(column, sorted(row.columns))
        raise BadRow(f"column '{column}' is missing{hint}")
    return row.columns[column]


def _settle(faults: Faults) -> None:
    if faults.count:
        first = faults.listed[0]
        others = faults.count - 1
        more = f" ({others} more row{'s' * (others > 1)} cannot be used.)" if others else ""
        raise UsageError(f"{first.place}: {first.reason.rstrip('.')}.{more}")
