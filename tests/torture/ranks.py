"""Two processes that train one student: one of them killed, or both, then both started again."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from torture.operations import Fault
from torture.outcome import differences, outcome
from torture.server import PATIENCE, Child
from torture.trials import Bench, Kind, Result, Trial, described

POINTS = 60
ALONE = 3.0
"""Seconds in which a survivor may notice by itself; then it is told to stop, as torchrun does."""
GRACE = 10.0
HOST = "127.0.0.1"


def killed(trial: Trial) -> Result:
    """Rank 0, rank 1 or both at a random time; every fourth time rank 0 at a file operation."""
    at = trial.random.randint(1, len(trial.bench.operations))
    by_operation = trial.number % 4 == 3
    with together(trial, Fault(at, "before") if by_operation else None) as ranks:
        if by_operation:
            ranks[0].ended_within(PATIENCE)
        else:
            ranks[0].ended_before(trial.random.random() * trial.bench.two_seconds)
            for child in (ranks[:1], ranks[1:], ranks)[trial.number % 4]:
                child.send(signal.SIGKILL)
        for child in ranks:
            if not child.ended_within(ALONE):
                child.send(signal.SIGTERM)
        for rank, ended in enumerate([child.end(GRACE) for child in ranks]):
            if ended.hung:
                return trial.failed(f"rank {rank} went on without the other: {described(ended)}")
    with together(trial) as ranks:
        ends = [child.end() for child in ranks]
    bad = [ended for ended in ends if ended.code != 0]
    return trial.compare((bad or ends)[0], trial.bench.two_reference)


@contextmanager
def together(trial: Trial, fault: Fault | None = None) -> Iterator[list[Child]]:
    """The command in two processes that find each other at a third, as with torchrun."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    said = trial.folder / "said-agent.txt"
    said.unlink(missing_ok=True)
    agent = Child(lambda: _meeting_place(port), said)
    while not said.exists() or not said.read_text():
        if agent.ended_within(0.002):
            raise RuntimeError(f"no place to meet: {described(agent.end())}")
    shared = {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        yield [
            trial.command(
                None if rank else fault,
                environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
    finally:
        agent.send(signal.SIGKILL)
        agent.end()


def measure(bench: Bench) -> None:
    """The undisturbed run of two processes; twice in a full round, since it must be repeatable."""
    outcomes = []
    for number in range(2 if bench.thorough else 1):
        trial = Trial(bench, "two-undisturbed", number)
        with together(trial) as ranks:
            ends = [child.end() for child in ranks]
        for ended in ends:
            if ended.code != 0:
                raise SystemExit(f"two processes do not work here: {described(ended)}")
        bench.two_seconds = ends[0].computed
        outcomes.append(outcome(trial.run))
    if different := differences(outcomes[0], outcomes[-1]):
        raise SystemExit(f"two undisturbed runs of two processes differ: {different[:5]}")
    bench.two_reference = outcomes[0]


def _meeting_place(port: int) -> int:
    store = TCPStore(HOST, port, is_master=True, timeout=timedelta(seconds=30))
    print(f"listening on {store.port}", flush=True)
    while True:
        time.sleep(60)


KINDS = (Kind("ranks", "SIGKILL of one or both of two processes", 1, lambda _: POINTS, killed),)
