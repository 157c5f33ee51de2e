"""Processes forked from one that has imported everything: a run starts in milliseconds."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
"""Kept back until the child listens to them. Before, they are those of a Python that starts."""
PATIENCE = 120.0

_DIE_WITH_PARENT = 1

tqdm.set_lock(threading.RLock())
"""Not the usual one, which all forks share: one killed while it holds it would stop the rest."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    """Its exit code; negative, the signal that killed it."""
    seconds: float
    computed: float
    """Seconds of a processor's time, which do not depend on what else the machine does."""
    said: str
    hung: bool = False
    """Whether it had to be killed for taking too long."""


class Child:
    """A process at work in its own copy of this one."""

    def __init__(
        self,
        work: Callable[[], int],
        said: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Begin `work`, whose result is the exit code, with all that it prints going to `said`."""
        self._said = said
        sys.stdout.flush()
        sys.stderr.flush()
        self._began = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, said, environment or {})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        self._handle = os.pidfd_open(self.pid)

    def ended_within(self, seconds: float) -> bool:
        """Wait at most so long for its end."""
        watched = select.poll()
        watched.register(self._handle, select.POLLIN)
        return bool(watched.poll(max(0.0, seconds) * 1000))

    def ended_before(self, seconds: float) -> bool:
        """Wait until it has computed for so long. Returns whether it ended first."""
        deadline = time.monotonic() + PATIENCE
        clock = ctypes.c_int()
        ctypes.CDLL(None).clock_getcpuclockid(self.pid, ctypes.byref(clock))
        left = seconds
        while left > 0 and time.monotonic() < deadline:
            if self.ended_within(max(left, 0.001)):  # it cannot compute faster than time passes
                return True
            with suppress(OSError):  # it has no clock any more once it has ended
                left = seconds - time.clock_gettime(clock.value)
        return False

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, within: float = PATIENCE) -> Ended:
        """Wait for its end; one that takes longer is killed, and says so."""
        hung = not self.ended_within(within)
        if hung:
            self.send(signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self._handle)
        seconds = time.monotonic() - self._began
        said = self._said.read_text(errors="replace") if self._said.exists() else ""
        if hung:
            said += f"\nstill running after {within:.0f} s, and killed"
        computed = usage.ru_utime + usage.ru_stime
        return Ended(os.waitstatus_to_exitcode(status), seconds, computed, said, hung)


def die_with_parent() -> None:
    """Be killed when the process that this one is a copy of ends, however it ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _live(work: Callable[[], int], said: Path, environment: Mapping[str, str]) -> None:
    """The child's whole life."""
    code = 1
    try:
        die_with_parent()
        os.setpgid(0, 0)
        os.environ.update(environment)
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        random.seed()  # what is left to chance must not be the same in every child
        gc.freeze()
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120  # what Python itself does
        os._exit(code)
