"""What a file of weights declares to hold, summed up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensors:
    """How many tensors there are, and how many numbers in all of them."""

    count: int = 0
    numbers: int = 0

    @classmethod
    def total(cls, parts: Iterable[Tensors]) -> Tensors:
        parts = list(parts)
        return cls(sum(part.count for part in parts), sum(part.numbers for part in parts))
