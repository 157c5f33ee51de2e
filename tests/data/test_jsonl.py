from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.data import jsonl
from nexus.data.faults import Faults
from nexus.data.jsonl import read_jsonl

GOOD = b'{"text": "fine"}'

BAD = {
    "truncated": (b'{"text": "abc', 10, "not JSON: Unterminated string"),
    "no comma": (b'{"a": 1 "b": 2}', 9, "not JSON"),
    "two objects": (b'{"a": 1} {"b": 2}', 10, "Extra data"),
    "list": (b'["text"]', 1, "a list"),
    "string": (b'"text"', 1, "a string"),
    "number": (b"7", 1, "a number"),
    "null": (b"null", 1, "null"),
    "true": (b"true", 1, "true or false"),
    "latin-1": (b'{"text": "caf\xe9"}', 14, "byte 0xe9 is not UTF-8"),
    "latin-1 behind other letters": ('{"é": "'.encode() + b'\xe9"}', 8, "byte 0xe9"),
    "utf-16": ('{"text": "a"}'.encode("utf-16"), 1, "byte 0xff is not UTF-8"),
    "overlong": (b'{"text": "\xc0\x80"}', 11, "byte 0xc0"),
    "encoded surrogate": (b'{"text": "\xed\xa0\x80"}', 11, "byte 0xed"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, 1, "byte order mark"),
    "duplicate key": (b'{"text": "a", "text": "b"}', 15, "'text' is given twice"),
    "duplicate escaped": (b'{"text": "a", "te\\u0078t": "b"}', 15, "'text' is given twice"),
    "nested duplicate": (b'{"m": [{"role": 1, "role": 2}]}', 20, "'role' is given twice"),
    "no duplicate": (b'{"a": {"a": "a:", "b": "\\"a\\":"}, "a": 1}', 35, "'a' is given twice"),
    "lone surrogate": (b'{"text": "\\ud83d"}', 11, "lone surrogate (half a character), \\ud83d"),
    "surrogate in a list": (b'{"m": [{"content": "\\udc00"}]}', 21, "lone surrogate"),
    "surrogate in a key": (b'{"text": "a", "\\udc00": 1}', 16, "lone surrogate"),
    "two high ones": (b'{"text": "\\ud83d\\ud83d\\ude00"}', 11, "lone surrogate"),
    "a low one more": (b'{"text": "\\ud83d\\ude00\\ude00"}', 23, "lone surrogate"),
    "behind a backslash": (b'{"text": "\\\\ud83d\\ude00"}', 18, "lone surrogate"),
    "with a letter between": (b'{"text": "\\ud83d-\\ude00"}', 11, "lone surrogate"),
    "escaped NUL": (b'{"text": "a\\u0000"}', 12, "NUL"),
    "raw NUL": (b'{"text": "a\x00"}', 12, "Invalid control character"),
    "NaN": (b'{"x": "NaN", "y": NaN}', 19, "NaN is not a JSON value"),
    "infinite": (b'{"x": -Infinity}', 7, "-Infinity is not a JSON value"),
    "blank": (b"  ", None, "blank"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "nested too deeply"),
    "huge number": (b'{"a": ' + b"1" * 5000 + b"}", 7, "too many digits"),
}

FINE = {
    "emoji": b'{"text": "\\ud83d\\ude00"}',
    "backslash before u": b'{"text": "\\\\u0000 \\\\ud83d"}',
    "the same key elsewhere": b'{"a": {"a": [{"a": 1}, {"a": 2}]}}',
    "crlf": GOOD + b"\r",
}


def _file(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _read(path: Path, name: str = "f") -> tuple[list[tuple[dict[str, Any], str]], Faults]:
    faults = Faults("skip")
    return list(read_jsonl(path, name, faults)), faults


@pytest.mark.parametrize(("line", "column", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_seventh_line_is_named(
    tmp_path: Path, line: bytes, column: int | None, reason: str
) -> None:
    path = _file(tmp_path, [GOOD] * 6 + [line] + [GOOD] * 2)
    rows, faults = _read(path, "train.jsonl")
    places = [place for _, place in rows]
    assert places == [f"train.jsonl:{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9)]
    ((place, why),) = faults.listed
    assert place == f"train.jsonl:7:{column}" if column else "train.jsonl:7"
    assert reason in why


@pytest.mark.parametrize("line", FINE.values(), ids=FINE.keys())
def test_unusual_lines_are_fine(tmp_path: Path, line: bytes) -> None:
    rows, faults = _read(_file(tmp_path, [line]))
    assert len(rows) == 1 and not faults.count


@pytest.mark.parametrize("size", [1001, 2500, 5000])
def test_too_long_a_line_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    rows, faults = _read(_file(tmp_path, [GOOD, b'{"text": "' + b"x" * size + b'"}', GOOD]))
    assert [place for _, place in rows] == ["f:1", "f:3"]
    assert "longer than" in faults.listed[0].reason


MEASURED = """
import pathlib, resource, sys, time
from nexus.data.faults import Faults
from nexus.data.jsonl import read_jsonl
faults = Faults("skip")
before = resource.getrusage(resource.RUSAGE_SELF)
rows = list(read_jsonl(pathlib.Path(sys.argv[1]), "f", faults))
after = resource.getrusage(resource.RUSAGE_SELF)
print(len(rows), faults.count, (after.ru_maxrss - before.ru_maxrss) // 1024,
      after.ru_utime - before.ru_utime)
"""


@pytest.mark.parametrize("filler", [b"x", b"[", b"\\u0041", b"\xc3\xa9", b" "], ids=repr)
def test_a_line_of_50_mb_takes_neither_memory_nor_time(tmp_path: Path, filler: bytes) -> None:
    """Under 2 seconds of processor time and under 100 MiB, whatever the line is full of."""
    long = b'{"text": "' + filler * (50 * 10**6 // len(filler)) + b'"}'
    path = _file(tmp_path, [GOOD, long, GOOD])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    rows, bad, mebibytes, seconds = done.stdout.split()
    assert (rows, bad) == ("2", "1")
    assert int(mebibytes) < 100 and float(seconds) < 2


def test_blank_lines_at_the_end_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(GOOD + b"\r\n" + GOOD + b"\r\n\r\n\n")
    rows, faults = _read(path)
    assert len(rows) == 2 and not faults.count


def test_blank_lines_between_are_each_named(tmp_path: Path) -> None:
    rows, faults = _read(_file(tmp_path, [b"", GOOD, b"", b" ", GOOD, b""]))
    assert [place for _, place in rows] == ["f:2", "f:5"]
    assert [fault.place for fault in faults.listed] == ["f:1", "f:3", "f:4"]


def test_no_newline_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(GOOD + b"\n" + GOOD)
    assert [place for _, place in _read(path)[0]] == ["f:1", "f:2"]


@given(lines=st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=8))
def test_every_line_is_a_row_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    rows, faults = _read(_file(tmp_path_factory.mktemp("fuzz"), [*lines, GOOD]))
    assert len(rows) + faults.count == len(lines) + 1
    assert rows[-1] == ({"text": "fine"}, f"f:{len(lines) + 1}")


_letters = st.sampled_from(['"', "\\", "u", "d83d", "de00", "0000", "{", "}", ":", ",", "a", "é"])


@given(line=st.lists(_letters, max_size=16).map("".join))
def test_columns_are_inside_the_line(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    """Whatever is found wrong is found somewhere in the line, or just behind its end."""
    path = _file(tmp_path_factory.mktemp("fuzz"), [b'{"a": ' + line.encode() + b"}"])
    _, faults = _read(path)
    for place, _ in faults.listed:
        _, number, *column = place.split(":")
        assert number == "1" and all(1 <= int(at) <= len(line) + 8 for at in column)
