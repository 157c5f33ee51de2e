"""Memory that ran out: recognised in every dress it comes in, and answered with the next change."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nexus.errors import NexusError
from nexus.training.settings import TrainSpec

_IN_WORDS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|Cannot allocate memory"
    r"|ALLOC_FAILED|Unable to allocate",
    re.IGNORECASE,
)
"""What PyTorch's allocators, C++, NumPy and CUDA's libraries say, in a plain RuntimeError."""

LAST_RESORT = "Take a smaller student or teacher, or a machine with more memory"

SHORTEST_ROW = 128
"""Tokens below which a row is not advised to be cut."""


class OutOfMemory(NexusError):
    """Memory ran out. The message names the smallest change of the recipe that helps."""


@contextmanager
def explained(doing: str, remedy: str) -> Iterator[None]:
    """Say of memory that runs out inside what to change.

    Raises:
        OutOfMemory: it did.
    """
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        said = f" ({reason})" if reason else ""
        raise OutOfMemory(
            f"memory ran out when {doing}{said}. Checkpoints are intact. {remedy}"
        ) from None


def is_shortage(error: BaseException) -> bool:
    """Whether an exception of any library means that there was no more memory."""
    match error:
        case MemoryError() | torch.OutOfMemoryError():
            return True
        case OSError():
            return error.errno == errno.ENOMEM
        case RuntimeError():
            return bool(_IN_WORDS.search(str(error)))
        case _:
            return False


def advice(settings: TrainSpec, sequence_length: int) -> str:
    """The smallest change of a recipe that needs less memory, the least costly first."""
    rows, shorter = settings.micro_batch_rows, max(SHORTEST_ROW, sequence_length // 2)
    if rows > 1:
        return _change("train.micro_batch_rows", rows // 2, rows, "the same gradient")
    if not settings.gradient_checkpointing:
        cost = "the same gradient, in about a third more time"
        return _change("train.gradient_checkpointing", "true", "false", cost)
    if sequence_length > shorter:
        return _change("data.sequence_length", shorter, sequence_length, "shorter rows", anew=True)
    if settings.precision != "pure_bf16":
        cost = "half the memory for weights, for high learning rates only"
        return _change("train.precision", "pure_bf16", settings.precision, cost, anew=True)
    return LAST_RESORT


def _change(key: str, value: object, now: object, cost: str, *, anew: bool = False) -> str:
    flag = "--fresh" if anew else "--allow-changed recipe"
    return f"Set {key} to {value} (now {now}): {cost}. Add --set {key}={value} {flag}"
