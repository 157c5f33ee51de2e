"""Starts of a tool's command, each a real process that can be killed, and how they ended.

Processes come from a fork server that has imported everything already, which makes hundreds of
them affordable.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nexus.launch import MARK

CONTEXT = get_context("forkserver")

ENVIRONMENT = {
    MARK: "as the system has them",  # no process is replaced by another
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",  # what is killed tidies nothing up
}

LONGEST = 120.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; negative for a signal."""
    seconds: float
    said: str
    """All it wrote to standard output and standard error."""

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said

    @property
    def lines(self) -> set[str]:
        """What it said, numbers and paths aside: what differs is news."""
        plain = re.sub(r"\x1b\[[0-9;]*m|/\S+", "", self.said)
        return {re.sub(r"\d[\d.e+-]*", "#", line).strip() for line in plain.splitlines()} - {""}

    @property
    def last_line(self) -> str:
        lines = self.said.strip().splitlines()
        return lines[-1][:300] if lines else ""


@dataclass(frozen=True)
class Trial:
    """A process that was started."""

    process: BaseProcess
    log: Path
    began: float

    def kill_after(self, seconds: float) -> bool:
        """Kill it at a moment after its start. Returns whether it was still at work."""
        self.process.join(max(0.0, self.began + seconds - time.monotonic()))
        alive = self.process.exitcode is None
        if alive:
            self.process.kill()
        return alive

    def wait(self) -> Ended:
        """Until it ends; one that hangs is killed."""
        self.process.join(LONGEST)
        seconds = time.monotonic() - self.began
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Ended(self.process.exitcode or 0, seconds, said)


def begin(preload: Sequence[str]) -> None:
    """Say what the fork server imports, once for all trials, and what environment it has."""
    os.environ |= ENVIRONMENT
    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join((folder, os.environ.get("PYTHONPATH", "")))
    CONTEXT.set_forkserver_preload(list(preload))


def start(
    play: Callable[[Any], None], job: Any, log: Path, *, largest_file: int | None = None
) -> Trial:
    """A process that carries out `play(job)`.

    Args:
        play: a function that a new process can import.
        job: its argument.
        log: receives what the process says.
        largest_file: the size that no file it writes may exceed.
    """
    log.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_play, args=(play, job, log, largest_file))
    began = time.monotonic()
    process.start()
    return Trial(process, log, began)


def _play(play: Callable[[Any], None], job: Any, log: Path, largest_file: int | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(descriptor, standard)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if job.mishap is not None:
        job.mishap.arm()
    play(job)
