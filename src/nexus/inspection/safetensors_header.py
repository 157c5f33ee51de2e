"""The header of a safetensors file, checked against the file's size before anything is mapped."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from nexus.errors import UsageError
from nexus.inspection.tensors import Tensors

MOST_HEADER_BYTES = 100 * 10**6
MOST_DIMENSIONS = 16
_LENGTH_BYTES = 8

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""How wide a number of each type is."""


def read_header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by their names: `dtype`, `shape` and `data_offsets`.

    Raises:
        UsageError: The file is cut short, its header is absurd, or the two do not fit together.
    """
    size = path.stat().st_size
    if size < _LENGTH_BYTES:
        raise _broken(path, f"has {size} bytes, too few for any weights")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > MOST_HEADER_BYTES:
            raise _broken(
                path,
                f"claims a header of {length:,} bytes, of which {MOST_HEADER_BYTES:,} are allowed: "
                "it is no safetensors file, or a crafted one",
            )
        if _LENGTH_BYTES + length > size:
            raise _broken(path, f"has {size:,} bytes and ends within its header of {length:,}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"has a header that is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise _broken(path, f"has a header that is a JSON {type(header).__name__}")
    header.pop("__metadata__", None)
    _check(path, header, size - _LENGTH_BYTES - length)
    return header


def declared(path: Path) -> Tensors:
    """How much is in a safetensors file, once its header is found to be sound."""
    entries = read_header(path).values()
    return Tensors(len(entries), sum(math.prod(entry["shape"]) for entry in entries))


def _check(path: Path, header: dict[str, Any], room: int) -> None:
    """Every tensor has the bytes its shape needs, and together they are the file."""
    ranges = [(0, 0), *sorted(_range(path, name, entry) for name, entry in header.items())]
    for (_, stop), (start, _) in pairwise(ranges):
        if start != stop:
            raise _broken(
                path, f"has tensors that overlap or leave a gap at byte {min(start, stop):,}"
            )
    if ranges[-1][1] != room:
        raise _broken(
            path,
            f"declares tensors of {ranges[-1][1]:,} bytes, but {room:,} bytes follow its header",
        )


def _range(path: Path, name: str, entry: Any) -> tuple[int, int]:
    shown = repr(name[:80])
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise _broken(path, f"says of tensor {shown} something else than type, shape and place")
    if dtype not in BITS:
        raise _broken(path, f"has tensor {shown} of the unknown type {dtype[:20]!r}")
    if len(shape) > MOST_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise _broken(path, f"has tensor {shown} of the impossible shape {str(shape)[:80]}")
    needed = math.prod(shape) * BITS[dtype]
    if start < 0 or 8 * (stop - start) != needed:
        raise _broken(
            path,
            f"has tensor {shown} of shape {str(shape)[:80]} and type {dtype} at bytes {start:,} to "
            f"{stop:,}, where it does not fit",
        )
    return start, stop


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands in it twice")
    return values


def _broken(path: Path, what: str) -> UsageError:
    return UsageError(f"{path} {what}. Download it again from a source you trust.")
