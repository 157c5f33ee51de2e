from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus.data.rejected import FILE_NAME, MOST_CHARACTERS, Rejected, written


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_for_every_row_with_all_that_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    circle: list[Any] = []
    circle.append(circle)
    with written(path) as rejected:
        assert rejected is not None
        rejected.add("a:1:5", "not UTF-8", b'{"text": "caf\xe9\x1b[2J"}')
        rejected.add("a:2", "half", {"text": "\ud83d \u202e é", "when": {1, 2} - {2}})
        rejected.add("a:3", "no row", None)
        rejected.add("a:4", "a circle", circle)
        rejected.add("a:5", "long", b"x" * 10**6)
        assert not path.exists()
    assert path.read_bytes().isascii() and b"\x1b" not in path.read_bytes()
    assert _lines(path) == [
        {"place": "a:1:5", "reason": "not UTF-8", "row": '{"text": "caf\\xe9\x1b[2J"}'},
        {"place": "a:2", "reason": "half", "row": '{"text": "\ud83d \u202e é", "when": "{1}"}'},
        {"place": "a:3", "reason": "no row", "row": None},
        {"place": "a:4", "reason": "a circle", "row": None},
        {"place": "a:5", "reason": "long", "row": "x" * MOST_CHARACTERS, "cut": True},
    ]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written(tmp_path / FILE_NAME) as rejected:
        assert rejected is not None
        rejected.add("a:1", "bad", b"x")
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_reading_left_goes(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("old")
    with written(tmp_path / FILE_NAME):
        pass
    assert list(tmp_path.iterdir()) == []


def test_rows_of_streams_are_added_while_they_are_read(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / FILE_NAME)
    rejected.add("a:1", "bad", b"x")
    rejected.finish()
    for number in (2, 3):
        rejected.add(f"a:{number}", "bad", b"x")
        assert [line["place"] for line in _lines(tmp_path / FILE_NAME)][-1] == f"a:{number}"
    assert len(_lines(tmp_path / FILE_NAME)) == 3


def test_nowhere_to_write() -> None:
    with written(None) as rejected:
        assert rejected is None
