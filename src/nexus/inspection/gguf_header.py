"""The header of a GGUF file, read within the file's bounds before a library believes its counts."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from nexus.errors import UsageError
from nexus.inspection.tensors import Tensors

MOST_ENTRIES = 2**16
"""Of metadata, and of tensors: the largest models have thousands."""

MOST_TEMPLATE_BYTES = 10**6
MOST_NAME_BYTES = 2**10
MOST_DIMENSIONS = 8
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""The formats of the kinds of metadata that have a fixed size."""

_DEPTH = 4


class _Absurd(Exception):
    """Why the file cannot be what it says."""


def declared(path: Path) -> tuple[Tensors, dict[str, int]]:
    """How much is in a GGUF file, and the whole numbers of its metadata.

    Raises:
        UsageError: A count, length or offset cannot be true, or the chat template is a bomb.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise _Absurd("has too few bytes for any weights")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).read()
    except _Absurd as error:
        raise UsageError(f"{path} {error}. Download it again from a source you trust.") from None


class _Reader:
    """Walks over the header; every length is compared with what is left of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def read(self) -> tuple[Tensors, dict[str, int]]:
        if self._data[:4] != b"GGUF":
            raise _Absurd("is no GGUF file")
        self._at = 4
        version = self._number("I")
        if version not in _VERSIONS:
            raise _Absurd(f"is of the unknown GGUF version {version}")
        tensors, entries = self._number("Q"), self._number("Q")
        for what, count in (("tensors", tensors), ("entries of metadata", entries)):
            if count > MOST_ENTRIES:
                raise _Absurd(f"claims {count:,} {what}, of which {MOST_ENTRIES:,} are allowed")
        numbers = self._metadata(entries)
        sizes = [self._tensor() for _ in range(tensors)]
        alignment = numbers.get("general.alignment", 32)
        if not 0 < alignment <= 2**20:
            raise _Absurd(f"claims an alignment of {alignment:,} bytes")
        start = -(-self._at // alignment) * alignment
        for name, _, offset, size in sizes:
            if start + offset + size > len(self._data):
                raise _Absurd(
                    f"has tensor {name!r} of {size:,} bytes from byte {start + offset:,} on, but "
                    f"ends at {len(self._data):,}"
                )
        return Tensors(tensors, sum(count for _, count, _, _ in sizes)), numbers

    def _metadata(self, entries: int) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for _ in range(entries):
            key = self._string(MOST_NAME_BYTES).decode("utf-8", "replace")
            kind, before = self._number("I"), self._at
            value = self._value(kind)
            if "chat_template" in key and self._at - before > MOST_TEMPLATE_BYTES:
                raise _Absurd(
                    f"has {key!r} of {self._at - before:,} bytes, of which "
                    f"{MOST_TEMPLATE_BYTES:,} are allowed"
                )
            if type(value) is int:
                numbers[key] = value
        return numbers

    def _tensor(self) -> tuple[str, int, int, int]:
        """Name, how many numbers, where, and how many bytes."""
        name = self._string(MOST_NAME_BYTES).decode("utf-8", "replace")[:80]
        dimensions = self._number("I")
        if dimensions > MOST_DIMENSIONS:
            raise _Absurd(f"has tensor {name!r} of {dimensions:,} dimensions")
        count = math.prod([self._number("Q") for _ in range(dimensions)])
        kind, offset = self._number("I"), self._number("Q")
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise _Absurd(f"has tensor {name!r} of the unknown type {kind}") from None
        return name, count, offset, count // block * size

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            self._string(len(self._data))
            return None
        if kind != _ARRAY or depth == _DEPTH:
            raise _Absurd(f"has metadata of the unknown kind {kind} or nested without end")
        inner, count = self._number("I"), self._number("Q")
        if inner in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
            return None
        if count > len(self._data) - self._at:
            raise _Absurd(f"claims a list of {count:,} values, more than it has bytes")
        for _ in range(count):
            self._value(inner, depth + 1)
        return None

    def _string(self, most: int) -> bytes:
        length = self._number("Q")
        if length > most:
            raise _Absurd(f"claims a text of {length:,} bytes, of which {most:,} are allowed")
        start = self._at
        self._skip(length)
        return self._data[start : self._at] if length <= MOST_NAME_BYTES else b""

    def _number(self, form: str) -> Any:
        start = self._at
        self._skip(struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self._data, start)[0]

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self._at:
            raise _Absurd(f"ends within its header, at byte {len(self._data):,}")
        self._at += length
