"""Variants that take turns, each in a process of its own.

A process of its own makes a variant's peak memory its own; taking turns spreads whatever else
happens on the machine over all variants alike. Only one of them works at any time.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from resident import forget_peak

Facts = dict[str, Any]


class Clock:
    """A variant's own end: it waits for its turn, times it, and tells what came out."""

    def __init__(self, connection: Connection, warmups: int) -> None:
        self._connection = connection
        self._left = warmups
        self._began = (0.0, 0.0)

    def begin(self) -> None:
        self._connection.recv()
        self._began = (time.perf_counter(), time.process_time())

    def end(self, **facts: Any) -> None:
        """End the turn. The peak of memory begins anew after the last turn that is not counted."""
        seconds = time.perf_counter() - self._began[0]
        processor_seconds = time.process_time() - self._began[1]
        self._left -= 1
        if self._left == 0:
            forget_peak()
        times = {"seconds": seconds, "processor_seconds": processor_seconds}
        self._connection.send({**times, **facts})


Play = Callable[..., Facts]
"""Called with a `Clock` and arguments: takes all its turns, returns what is known at the end."""


@dataclass(frozen=True)
class Entry:
    """A variant as it enters: a function that a new process can import, and its arguments."""

    play: Play
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of its process."""


@dataclass
class Outcome:
    """What a variant came to."""

    warmups: list[Facts] = field(default_factory=list)
    turns: list[Facts] = field(default_factory=list)
    """In order, each with `seconds`."""
    final: Facts = field(default_factory=dict)
    error: str = ""

    @property
    def seconds(self) -> list[float]:
        return [turn["seconds"] for turn in self.turns]

    @property
    def processors(self) -> float:
        """How many processors it had on average: below its threads, others were at work too."""
        return sum(turn["processor_seconds"] for turn in self.turns) / sum(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(
    entries: Mapping[str, Entry], *, warmups: int, rounds: int, together: bool = True
) -> dict[str, Outcome]:
    """Let each entry take `warmups` turns at first, then one a round.

    Args:
        entries: by name. One that fails is reported as such, and the others go on.
        warmups: turns that are not counted: compiling, first touches of memory.
        rounds: turns that are counted.
        together: whether all processes live at once and take turns. Otherwise one runs after
            another, which needs less memory and is at the mercy of a noisy neighbour.
    """
    outcomes = {name: Outcome() for name in entries}
    players: dict[str, _Player] = {}
    try:
        for name, entry in entries.items():
            players[name] = _Player(name, entry, warmups, outcomes[name])
            for _ in range(warmups):
                players[name].turn(outcomes[name].warmups)
            if not together:
                for _ in range(rounds):
                    players[name].turn(outcomes[name].turns)
                players[name].finish()
        for number in range(rounds if together else 0):
            # There and back again, so that nobody always follows the same neighbour.
            for name in list(players)[:: 1 if number % 2 == 0 else -1]:
                players[name].turn(outcomes[name].turns)
        for player in players.values():
            player.finish()
    finally:
        for player in players.values():
            player.stop()
    return outcomes


class _Player:
    """The other end of a variant's process."""

    def __init__(self, name: str, entry: Entry, warmups: int, outcome: Outcome) -> None:
        context = get_context("spawn")
        self._name, self._outcome = name, outcome
        self._connection, theirs = context.Pipe()
        arguments = (theirs, warmups, entry.play, entry.arguments)
        self._process = context.Process(target=_play, args=arguments)
        with _environment(entry.environment):
            self._process.start()
        theirs.close()

    def turn(self, into: list[Facts]) -> None:
        if self._outcome.error or self._outcome.final:
            return
        try:
            self._connection.send("go")
            facts = self._connection.recv()
        except (EOFError, BrokenPipeError):
            facts = {"error": f"its process ended with exit code {self._exit_code()}"}
        if "error" in facts:
            self._outcome.error = facts["error"]
            print(f"  {self._name} failed:\n{facts['error']}", file=sys.stderr)
            return
        into.append(facts)
        print(f"  {self._name}: {facts['seconds']:.3f} s", file=sys.stderr)

    def finish(self) -> None:
        if not self._outcome.error and not self._outcome.final:
            facts = self._connection.recv()
            self._outcome.error = facts.pop("error", "")
            self._outcome.final = facts

    def stop(self) -> None:
        self._connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _exit_code(self) -> int | None:
        self._process.join(timeout=5)
        return self._process.exitcode


def _play(connection: Connection, warmups: int, play: Play, arguments: tuple[Any, ...]) -> None:
    try:
        connection.send(play(Clock(connection, warmups), *arguments))
    except (EOFError, BrokenPipeError):
        pass  # nobody is there any more to tell
    except Exception:  # whatever it is, it is what came of this variant
        connection.send({"error": traceback.format_exc()})


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
