"""A clock that goes back between two starts of a run."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from torture.trials import Kind, Result, Trial

BACK = 2 * 3600.0


def moved_back(trial: Trial) -> Result:
    """Killed, the clock set back by two hours, and ages of files in no order at all."""
    for _ in range(8):
        child = trial.command()
        finished = child.ended_before(trial.random.random() * trial.bench.seconds)
        child.send(signal.SIGKILL)
        child.end()
        if not finished:
            break
        trial.begin()
    paths = sorted(trial.place.rglob("*"))
    trial.random.shuffle(paths)
    for number, path in enumerate(paths):
        later = time.time() + BACK + number
        os.utime(path, (later, later))
    ended = trial.command(before=_back).end()
    return trial.compare(ended, trial.bench.reference)


def _back() -> None:
    """Set this process's clock back."""
    seconds, nanoseconds = time.time, time.time_ns

    def earlier(*_: Any) -> float:
        return seconds() - BACK

    time.time = earlier
    time.time_ns = lambda: nanoseconds() - int(BACK * 1e9)


KINDS = (Kind("clock", "clock moved back by two hours", 1, lambda bench: 12, moved_back),)
