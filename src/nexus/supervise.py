"""A run that is started again when it dies: always as a fresh job, from its newest checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from nexus.errors import Interrupted, NexusError, UsageError

FATAL = 128
"""Added to the number of the signal that killed a process, as shells do."""

FINAL = {0, NexusError.exit_code, UsageError.exit_code}
"""Exit codes that would be the same again."""


@dataclass
class Supervisor:
    """Keeps a command running until it ends by itself, or dies again and again at one place."""

    arguments: Sequence[str]
    """What follows `nexus`."""
    processes: int
    run: Path
    """The run directory, whose checkpoints tell progress."""
    restarts: int
    """How many times in a row it is started again without a new checkpoint in between."""
    say: Callable[[str], None]
    _job: subprocess.Popen[bytes] | None = None
    _signals: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        """Returns the exit code of the last job."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._pass_on)
        begun, seen, left = self._began(), self._checkpoints(), self.restarts
        while True:
            code = self._attempt(fresh=self._began() == begun)
            if code in FINAL:
                return code
            if self._signals:
                return Interrupted.exit_code
            now = self._checkpoints()
            left = self.restarts if now - seen else left - 1
            seen |= now
            if left < 0:
                self.say(
                    f"the run died {self.restarts + 1} times without a checkpoint in between "
                    f"({_described(code)}) and is not started again. What can be read above, or "
                    "the system's log, says why"
                )
                return code
            since = "its newest checkpoint" if now else "its beginning"
            self.say(
                f"the run died ({_described(code)}) and is started again from {since}; "
                f"{left} more times unless it gets further"
            )

    def _attempt(self, *, fresh: bool) -> int:
        arguments = [word for word in self.arguments if fresh or word != "--fresh"]
        environment = dict(os.environ)
        # Without it each process would start as many threads as there are cores.
        share = max(1, (os.cpu_count() or 1) // self.processes)
        environment.setdefault("OMP_NUM_THREADS", str(share))
        self._job = subprocess.Popen(
            [sys.executable, "-m", "nexus.job", str(self.processes), *arguments],
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the processes once, from here
        )
        if self._signals:
            self._job.terminate()
        code = self._job.wait()
        return FATAL - code if code < 0 else code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if self._job is not None:
            self._job.send_signal(signal.SIGTERM if len(self._signals) == 1 else signal.SIGKILL)

    def _began(self) -> int | None:
        """Tells one run in this directory from another."""
        recipe = self.run / "recipe.yaml"
        return recipe.stat().st_ino if recipe.exists() else None

    def _checkpoints(self) -> set[str]:
        found = self.run.glob("checkpoints/*/step-*")
        return {path.relative_to(self.run).as_posix() for path in found}


def without(arguments: Sequence[str], *options: str) -> list[str]:
    """The arguments less some options and their values."""
    kept: list[str] = []
    skipping = False
    for word in arguments:
        if skipping:
            skipping = False
        elif word in options:
            skipping = True
        elif not any(word.startswith(f"{option}=") for option in options):
            kept.append(word)
    return kept


def _described(code: int) -> str:
    if code == Interrupted.exit_code:
        return "a process does not answer"
    if code > FATAL:
        return f"a process was killed by {signal.Signals(code - FATAL).name}"
    return f"exit code {code}"
