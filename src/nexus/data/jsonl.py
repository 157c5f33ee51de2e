"""JSON Lines, read by ourselves because fast readers accept or drop bad lines silently."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nexus.data.faults import BadRow, Faults

MAX_LINE_BYTES = 8 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
_KEYS = re.compile(rf"({_STRING})\s*:|{_STRING}|[{{}}\[\]]")


def read_jsonl(path: Path, name: str, faults: Faults) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line's object with its place, `name:line`. Whatever is not one clean object is a fault.

    Blank lines are faults too, except at the end of the file.
    """
    told = 0
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            for blank in range(told + 1, number):
                faults.add(f"{name}:{blank}", "the line is blank", b"")
            told = number
            place = f"{name}:{number}"
            try:
                yield _object(line), place
            except BadRow as bad:
                where = place if bad.column is None else f"{place}:{bad.column}"
                faults.add(where, str(bad), line.rstrip(b"\r\n"))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long only its start, one byte over what is read."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(2**20)):
                pass
        yield line


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise BadRow(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB: split the document")
    if line.startswith(BYTE_ORDER_MARK):
        raise BadRow(
            "the line starts with a byte order mark: save the file as UTF-8 without BOM", 1
        )
    text = _decode(line.rstrip(b"\r\n"))
    value = _parse(text)
    if not isinstance(value, dict):
        raise BadRow(f"the line holds {_json_kind(value)}, not an object {{…}}", 1)
    if "\\u" in text:
        _check_escapes(text)
    return value


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            f"byte 0x{line[error.start]:02x} is not UTF-8: save the file as UTF-8",
            len(line[: error.start].decode("utf-8")) + 1,
        ) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise BadRow(f"not JSON: {reason}", error.pos + 1) from None
    except _Constant as constant:
        column = _outside_strings(text, re.escape(str(constant)))
        raise BadRow(f"not JSON: {constant} is not a JSON value", column) from None
    except _Twice:
        key, column = _second_key(text)
        raise BadRow(f"the key '{key}' is given twice", column) from None
    except RecursionError:
        raise BadRow("the values are nested too deeply") from None
    except ValueError:
        column = _outside_strings(text, f"[0-9]{{{sys.get_int_max_str_digits() + 1},}}")
        raise BadRow("a number has too many digits", column) from None


class _Constant(Exception):
    """NaN and its like, which JSON has not."""


class _Twice(Exception):
    """Two of an object's keys are the same."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _Twice
    return values


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


def _second_key(text: str) -> tuple[str, int]:
    """The first key of a valid text that its object has already, and its column."""
    objects: list[set[str]] = []
    for token in _KEYS.finditer(text):
        if token[0] in "{[":
            objects.append(set())
        elif token[0] in "}]":
            objects.pop()
        elif token[1]:
            key = json.loads(token[1])
            if key in objects[-1]:
                return key, token.start() + 1
            objects[-1].add(key)
    raise ValueError("no key is given twice")


def _outside_strings(text: str, pattern: str) -> int | None:
    """The column of what a valid text holds outside its strings."""
    for token in re.finditer(f"{_STRING}|({pattern})", text):
        if token[1]:
            return token.start() + 1
    return None


def _check_escapes(text: str) -> None:
    """Refuses what a clean line can only spell: NUL, and halves of characters beyond 16 bits."""
    high: re.Match[str] | None = None
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else -1
        if high and not (0xDC00 <= code < 0xE000 and escape.start() == high.end()):
            raise _lone(high)
        if not high and 0xDC00 <= code < 0xE000:
            raise _lone(escape)
        if code == 0:
            raise BadRow("it holds a NUL character", escape.start() + 1)
        high = escape if 0xD800 <= code < 0xDC00 else None
    if high:
        raise _lone(high)


def _lone(escape: re.Match[str]) -> BadRow:
    return BadRow(f"it holds a lone surrogate (half a character), {escape[0]}", escape.start() + 1)


def _json_kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "a list"
