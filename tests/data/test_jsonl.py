from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.data import jsonl
from nexus.data.faults import Faults
from nexus.data.jsonl import read_jsonl
from nexus.errors import UsageError

GOOD = b'{"text": "fine"}'

BAD = {
    "truncated": (b'{"text": "abc', "column 10"),
    "no comma": (b'{"a": 1 "b": 2}', "column 9"),
    "two objects": (b'{"a": 1} {"b": 2}', "Extra data"),
    "list": (b'["text"]', "a list"),
    "string": (b'"text"', "a string"),
    "number": (b"7", "a number"),
    "null": (b"null", "null"),
    "latin-1": (b'{"text": "caf\xe9"}', "column 14: byte 0xe9 is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "duplicate key": (b'{"text": "a", "text": "b"}', "'text' is given twice"),
    "nested duplicate": (b'{"m": [{"role": 1, "role": 2}]}', "'role' is given twice"),
    "lone surrogate": (b'{"text": "\\ud83d"}', "lone surrogate"),
    "surrogate in a list": (b'{"m": [{"content": "\\udc00"}]}', "lone surrogate"),
    "escaped NUL": (b'{"text": "a\\u0000"}', "NUL"),
    "raw NUL": (b'{"text": "a\x00"}', "Invalid control character"),
    "NaN": (b'{"x": NaN}', "NaN is not a JSON value"),
    "blank": (b"  ", "blank"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "huge number": (b'{"a": ' + b"1" * 5000 + b"}", "not JSON that can be read"),
}


def _file(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_seventh_line_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = _file(tmp_path, [GOOD] * 6 + [line] + [GOOD] * 2)
    with pytest.raises(UsageError, match=r"train\.jsonl:7: ") as caught:
        list(read_jsonl(path, "train.jsonl", Faults()))
    assert reason in str(caught.value)

    faults = Faults("skip")
    places = [place for _, place in read_jsonl(path, "train.jsonl", faults)]
    assert places == [f"train.jsonl:{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9)]
    assert [fault.place for fault in faults.listed] == ["train.jsonl:7"]


@pytest.mark.parametrize("size", [1001, 2500, 5000])
def test_too_long_a_line_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    path = _file(tmp_path, [GOOD, b'{"text": "' + b"x" * size + b'"}', GOOD])
    faults = Faults("skip")
    assert len(list(read_jsonl(path, "f", faults))) == 2
    assert "longer than" in faults.listed[0].reason


def test_blank_lines_at_the_end_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(GOOD + b"\r\n" + GOOD + b"\r\n\r\n\n")
    assert len(list(read_jsonl(path, "f", Faults()))) == 2


def test_no_newline_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(GOOD + b"\n" + GOOD)
    assert [place for _, place in read_jsonl(path, "f", Faults())] == ["f:1", "f:2"]


@given(lines=st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=8))
def test_every_line_is_a_row_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = _file(tmp_path_factory.mktemp("fuzz"), [*lines, GOOD])
    faults = Faults("skip")
    rows = list(read_jsonl(path, "f", faults))
    assert len(rows) + faults.count == len(lines) + 1
    assert rows[-1] == ({"text": "fine"}, f"f:{len(lines) + 1}")
