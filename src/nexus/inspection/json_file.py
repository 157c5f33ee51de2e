"""JSON files from strangers: read within limits, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nexus.errors import UsageError

MOST_BYTES = 64 * 10**6
"""No configuration, index or vocabulary comes near it."""


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The names and values of a JSON object.

    Raises:
        UsageError: It is too big, no JSON, nested without end, or something else than an object.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise UsageError(
            f"{path} has {size:,} bytes, more than the {most_bytes:,} such a file may have: it is "
            "refused. Download the model again from a source you trust."
        )
    try:
        values = json.loads(path.read_bytes())
    except RecursionError:
        raise UsageError(
            f"{path} is nested without end: it is refused. Download the model again from a source "
            "you trust."
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{path} is no JSON ({str(error).splitlines()[0]}). Download it again, or restore it."
        ) from None
    if not isinstance(values, dict):
        raise UsageError(
            f"{path} holds a JSON {type(values).__name__} where an object of names and values "
            "belongs. Download it again, or restore it."
        )
    return values
