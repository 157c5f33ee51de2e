"""Mixture: which row of which task comes next. Row j is a pure function of (seed, j)."""

from __future__ import annotations

import difflib
import hashlib
from array import array
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import NamedTuple

import numpy as np

from nexus.errors import UsageError


class Turn(NamedTuple):
    """The `ordinal`-th time (from 0) that `member` is drawn from."""

    member: int
    ordinal: int


class Schedule:
    """Takes turns by weight so evenly that after any j turns every member has had its share of j
    to within one turn: Tijdeman's solution of the chairman assignment problem (Discrete
    Mathematics 32, 1980), whose bound is 1 - 1/(2k - 2) for k members.

    The weights are held as whole numbers, so the schedule repeats after their sum, exactly.

    Args:
        weights: Non-negative and not all zero.
    """

    def __init__(self, weights: list[int]) -> None:
        divisor = gcd(*weights)
        if min(weights) < 0 or divisor == 0:
            raise ValueError(f"weights must be at least 0 and not all 0, got {weights}")
        self._weights = [weight // divisor for weight in weights]
        self._period = sum(self._weights)
        self._active = [i for i, weight in enumerate(self._weights) if weight]
        self._drawn = [0] * len(weights)
        self._members = array("i")
        self._ordinals = array("q")

    def __getitem__(self, turn: int) -> Turn:
        periods, within = divmod(turn, self._period)
        while len(self._members) <= within:
            self._extend()
        member = self._members[within]
        return Turn(member, self._ordinals[within] + periods * self._weights[member])

    def _extend(self) -> None:
        member = self._active[0] if len(self._active) == 1 else self._next()
        self._members.append(member)
        self._ordinals.append(self._drawn[member])
        self._drawn[member] += 1

    def _next(self) -> int:
        """Of the members that may have a turn without exceeding the bound, the most urgent one."""
        k = 2 * len(self._active) - 2
        n = len(self._members) + 1
        lags = {i: k * (self._weights[i] * n - self._period * self._drawn[i]) for i in self._active}
        ready = [i for i in self._active if lags[i] >= self._period]
        return min(ready, key=lambda i: (((k - 1) * self._period - lags[i]) / self._weights[i], i))


class Mixture:
    """An endless stream of rows drawn from tasks by weight, each task reshuffled every epoch.

    Args:
        sizes: The number of rows of each task; None for one that is read in its own order.
        weights: The share of rows of each task by name; empty: in proportion to the sizes.
        seed: Shuffles. A task's order does not depend on which other tasks there are.

    Raises:
        UsageError: if the weights name an unknown task, leave one out, or are negative or all zero.
    """

    def __init__(
        self, sizes: Mapping[str, int | None], weights: Mapping[str, float], seed: int
    ) -> None:
        self._names = tuple(sizes)
        self._sizes = tuple(sizes.values())
        self._seed = seed
        self._schedule = Schedule(_whole(sizes, weights))
        self._order = lru_cache(maxsize=2 * len(sizes))(self._shuffled)

    def __getitem__(self, row: int) -> tuple[str, int]:
        """The task, and which of its rows (an ever-growing count for tasks without a size)."""
        member, ordinal = self._schedule[row]
        size = self._sizes[member]
        if size is None:
            return self._names[member], ordinal
        epoch, position = divmod(ordinal, size)
        return self._names[member], int(self._order(member, epoch)[position])

    def _shuffled(self, member: int, epoch: int) -> np.ndarray:
        """Sorting raw random words, as numpy promises to keep those the same for ever."""
        words = f"{self._seed}/{self._names[member]}/{epoch}".encode()
        key = int.from_bytes(hashlib.sha256(words).digest()[:16], "little")
        size = self._sizes[member]
        return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


def _whole(sizes: Mapping[str, int | None], weights: Mapping[str, float]) -> list[int]:
    """Weights as whole numbers: 0.5, 0.3, 0.2 are 5, 3, 2."""
    if not weights:
        if len(sizes) > 1 and None in sizes.values():
            streams = [name for name, size in sizes.items() if size is None]
            raise UsageError(
                f"data.weights is missing: the size of task '{streams[0]}' is not known because it "
                f"is streamed. Give every task a weight: {', '.join(sizes)}."
            )
        return [size or 1 for size in sizes.values()]
    _check(sizes, weights)
    exact = [Fraction(str(weights[name])) for name in sizes]
    if not any(exact):
        raise UsageError(f"data.weights are all zero: {dict(weights)}. Give one of them weight.")
    denominator = lcm(*(weight.denominator for weight in exact))
    return [int(weight * denominator) for weight in exact]


def _check(sizes: Mapping[str, int | None], weights: Mapping[str, float]) -> None:
    tasks = ", ".join(f"'{name}'" for name in sizes)
    for name, weight in weights.items():
        if name not in sizes:
            close = difflib.get_close_matches(name, list(sizes), n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise UsageError(
                f"data.weights names the task '{name}', which no row has: {hint}Tasks of the data: "
                f"{tasks}."
            )
        if not 0 <= weight < float("inf"):
            raise UsageError(f"data.weights.{name} is {weight}: a weight is at least 0.")
    for name in sizes:
        if name not in weights:
            shown = f"'{name}'" if name else "'' (rows without a task)"
            raise UsageError(
                f"data.weights has no weight for the task {shown}. Give it one (0 leaves it out), "
                "or name the task of every source."
            )
