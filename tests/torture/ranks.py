"""Two processes that train one student: one of them killed, or both, then both started again."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from torture.operations import Fault
from torture.outcome import differences, outcome
from torture.server import Child, Ended
from torture.trials import Bench, Kind, Result, Trial, described

POINTS = 60
ALONE = 2.0
"""Seconds in which a survivor may notice by itself; then it is told to stop, as torchrun does."""
GRACE = 10.0


def killed(trial: Trial) -> Result:
    """Rank 0, rank 1 or both at a random time; every fourth time rank 0 at a file operation."""
    if trial.number % 4 == 3:
        at = trial.random.randint(1, len(trial.bench.operations))
        children = together(trial, Fault(at, "before"))
        children[0].ended_within(120)
    else:
        children = together(trial)
        children[0].ended_within(trial.random.random() * trial.bench.two_seconds)
        for child in (children[:1], children[1:], children)[trial.number % 4]:
            child.send(signal.SIGKILL)
    for child in children:
        if not child.ended_within(ALONE):
            child.send(signal.SIGTERM)
    for rank, ended in enumerate([child.end(GRACE) for child in children]):
        if ended.code == -999:
            return trial.failed(f"rank {rank} went on without the other: {described(ended)}")
    return conclude(trial)


def conclude(trial: Trial) -> Result:
    """Start both again, to the end."""
    ends = [child.end() for child in together(trial)]
    bad = [ended for ended in ends if ended.code != 0]
    return trial.compare((bad or ends)[0], trial.bench.two_reference)


def together(trial: Trial, fault: Fault | None = None, note: Path | None = None) -> list[Child]:
    """The command in two processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    return [
        trial.command(
            fault if rank == 0 else None,
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]


def measure(bench: Bench) -> None:
    """The undisturbed run of two processes, twice, since it must be repeatable."""
    outcomes = []
    for number in range(2):
        trial = Trial(bench, "two-undisturbed", number)
        ends: list[Ended] = [child.end() for child in together(trial)]
        for ended in ends:
            if ended.code != 0:
                raise SystemExit(f"two processes do not work here: {described(ended)}")
        bench.two_seconds = max(ended.seconds for ended in ends)
        outcomes.append(outcome(trial.run))
    different = differences(*outcomes)
    if different:
        raise SystemExit(f"two undisturbed runs of two processes differ: {different[:5]}")
    bench.two_reference = outcomes[0]


KINDS = (Kind("ranks", "SIGKILL of one or both of two processes", 1, lambda _: POINTS, killed),)
