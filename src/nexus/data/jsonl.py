"""JSON Lines, read by ourselves because fast readers accept or drop bad lines silently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nexus.data.faults import BadRow, Faults, unclean

MAX_LINE_BYTES = 16 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(path: Path, name: str, faults: Faults) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line's object with its place, `name:line`. Whatever is not one clean object is a fault.

    Blank lines are faults too, except at the end of the file.
    """
    blank: list[str] = []
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            place = f"{name}:{number}"
            if line is not None and not line.strip():
                blank.append(place)
                continue
            for earlier in blank:
                faults.add(earlier, "the line is blank")
            blank.clear()
            try:
                yield _object(line), place
            except BadRow as bad:
                faults.add(place, str(bad))


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file; None for one too long to be read, whose bytes are passed over."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
            pass
        yield None


def _object(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise BadRow(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB: split the document")
    if line.startswith(BYTE_ORDER_MARK):
        raise BadRow("the line starts with a byte order mark: save the file as UTF-8 without BOM")
    value = _parse(_decode(line.rstrip(b"\r\n")))
    if not isinstance(value, dict):
        raise BadRow(f"the line holds {_json_kind(value)}, not an object {{…}}")
    if b"\\u" in line:
        _check_strings(value)
    return value


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow(
            f"column {error.start + 1}: byte 0x{line[error.start]:02x} is not UTF-8: "
            "save the file as UTF-8"
        ) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise BadRow(f"column {error.colno}: not JSON: {reason}") from None
    except RecursionError:
        raise BadRow("the values are nested too deeply") from None
    except ValueError as error:
        raise BadRow(f"not JSON that can be read: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"the key '{twice}' is given twice")
    return values


def _refuse_constant(name: str) -> None:
    raise BadRow(f"not JSON: {name} is not a JSON value")


def _check_strings(value: Any) -> None:
    match value:
        case str():
            if reason := unclean(value):
                raise BadRow(reason)
        case list():
            for item in value:
                _check_strings(item)
        case dict():
            for key, item in value.items():
                _check_strings(key)
                _check_strings(item)


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
