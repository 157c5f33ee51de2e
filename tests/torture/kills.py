"""SIGKILL: at each file operation, at each one of a recovery, and at any moment."""

from __future__ import annotations

import signal

from torture.operations import TORN, Fault, Operation
from torture.trials import Kind, Result, Trial, described

RANDOM = 300
AGAIN = 0.25
"""The share of random kills whose next command is killed too."""


def at_each_operation(trial: Trial) -> Result:
    """Killed before operation k, or in its middle where bytes are written."""
    ended = trial.command(_faults(trial.bench.operations)[trial.number]).end()
    if ended.code != -signal.SIGKILL:
        return trial.failed(f"no such operation: {described(ended)}")
    return trial.conclude()


def in_a_recovery(trial: Trial) -> Result:
    """The same while a killed run goes on, whose newest checkpoint is damaged."""
    trial.begin(like=trial.bench.damaged)
    ended = trial.command(_faults(trial.bench.recovery)[trial.number]).end()
    if ended.code != -signal.SIGKILL:
        return trial.failed(f"no such operation: {described(ended)}")
    return trial.conclude()


def at_any_moment(trial: Trial) -> Result:
    """Killed at a random time, a quarter of them once more while they resume."""
    if not _kill_somewhere(trial):
        return trial.failed("ended before it was killed, eight times over")
    if trial.random.random() < AGAIN:
        child = trial.command()
        child.ended_before(trial.random.random() * trial.bench.seconds)
        child.send(signal.SIGKILL)
        child.end()
    return trial.conclude()


def _kill_somewhere(trial: Trial) -> bool:
    for _ in range(8):
        child = trial.command()
        finished = child.ended_before(trial.random.random() * trial.bench.seconds)
        child.send(signal.SIGKILL)
        ended = child.end()
        if not finished and ended.code == -signal.SIGKILL:
            return True
        trial.begin()
    return False


def _faults(operations: list[Operation]) -> list[Fault]:
    """All there are: after an operation is before the next one, but for the very last."""
    faults = [Fault(one.number, "before") for one in operations]
    faults += [Fault(one.number, "after") for one in operations if one.call in TORN]
    return faults + [Fault(one.number, "after") for one in operations[-1:]]


KINDS = (
    Kind(
        "operation", "SIGKILL at every file operation", 10,
        lambda bench: len(_faults(bench.operations)), at_each_operation,
    ),
    Kind(
        "recovery", "SIGKILL at every operation of a recovery", 4,
        lambda bench: len(_faults(bench.recovery)), in_a_recovery,
    ),
    Kind("random", "SIGKILL at a random moment", 7, lambda bench: RANDOM, at_any_moment),
)  # fmt: skip
