"""Runs that are asked to stop at chosen moments, forked from a process that has imported it all.

python signalled.py FOLDER: writes FOLDER/told.json, a list of how each of them ended. All of them
write into one run directory, so that each goes on where the one before was stopped. Started by
test_stopping_runs.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tqdm import tqdm

from nexus import cli, durable
from nexus.launch import MARK
from nexus.training import loop

TESTS = Path(__file__).parent
CHANGES = ["train.steps=12", "train.save_every=2", "evaluate.samples=0"]
PATIENCE = 60.0
TERM, INT, USER = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1

tqdm.set_lock(threading.RLock())
"""Not the usual one, which all forks share: one killed while it holds it would stop the rest."""


@dataclass(frozen=True)
class Moment:
    """When a run gets which signals."""

    name: str
    signals: tuple[signal.Signals, ...]
    said: str = ""
    """What it must have printed."""
    exists: str = ""
    """What must be in the run directory, as a pattern."""
    slowed: Callable[[], Any] | None = None
    """Makes that last long enough to be hit."""
    command: tuple[str, ...] = ()


def slow_flush() -> Any:
    """Each file takes half a second to reach the disk."""
    flush = durable.flush

    def slowly(path: Path) -> None:
        time.sleep(0.5)
        flush(path)

    return mock.patch.object(durable, "flush", slowly)


def slow_verify() -> Any:
    verify = durable.verify

    def slowly(folder: Path) -> None:
        print("verifying", flush=True)
        time.sleep(2)
        verify(folder)

    return mock.patch.object(durable, "verify", slowly)


def endless_step() -> Any:
    """A step in native code that lets nothing interrupt it: a mutex that is locked twice."""
    take_step = loop.take_step

    def endlessly(*given: Any) -> Any:
        values = take_step(*given)
        if given[3] == 8:
            print("endless", flush=True)
            mutex = ctypes.create_string_buffer(64)
            library = ctypes.CDLL(None)
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)
        return values

    return mock.patch.object(loop, "take_step", endlessly)


MOMENTS = (
    Moment("reading data", (TERM,), said="reading and tokenising"),
    Moment("loading", (INT,), said="loading the teacher"),
    Moment("making the student", (USER,), said="making the student"),
    Moment("first evaluation", (TERM,), said="measuring the untrained"),
    Moment("first step", (TERM,), said="train 1/12"),
    Moment("saving", (USER,), exists="checkpoints/train/.tmp-step-*", slowed=slow_flush),
    Moment("verifying", (INT,), said="verifying", slowed=slow_verify),
    Moment("endless step", (TERM,), said="endless", slowed=endless_step),
    Moment("endless step, twice", (TERM, TERM), said="endless", slowed=endless_step),
    Moment("a later step", (INT,), said="train 10/12"),
    Moment("saving the student", (TERM,), exists=".tmp-student*", slowed=slow_flush),
    Moment("evaluation", (USER,), said="measuring the trained"),
    Moment("report", (INT,), exists="evaluation.json"),
)


def main(folder: Path) -> None:
    workspace = runpy.run_path(str(TESTS / "workspace.py"))
    recipe: Path = workspace["write_workspace"](folder / "workspace")
    command = ["nexus", "distill", str(recipe), "--set", *CHANGES]
    # The undisturbed run comes first, and imports here whatever is imported late.
    sys.argv = [*command, "output=undisturbed"]
    cli.main()
    run = recipe.parent / "disturbed"
    sys.argv = [*command, f"output={run.name}"]
    told = [disturb(moment, run, folder / "said.txt") for moment in MOMENTS]
    told.append(disturb(Moment("undisturbed", ()), run, folder / "said.txt"))
    (folder / "told.json").write_text(json.dumps(told))


def disturb(moment: Moment, run: Path, said: Path) -> dict[str, Any]:
    """One run of the command, in a child, and how it ended."""
    said.write_text("")
    child = os.fork()
    if child == 0:
        live(moment, said)
    deadline, took, status = time.monotonic() + PATIENCE, 0.0, None
    while status is None and time.monotonic() < deadline and moment.signals:
        there = not moment.exists or any(run.glob(moment.exists))
        if there and moment.said in said.read_text():
            break
        pid, found = os.waitpid(child, os.WNOHANG)
        status = found if pid else None
        time.sleep(0.002)
    asked = time.monotonic()
    if status is None:
        for number in moment.signals:
            os.kill(child, number)
            time.sleep(0.05)
        _, status = os.waitpid(child, 0)
        took = time.monotonic() - asked
    return {
        "name": moment.name,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": took,
        "said": said.read_text(),
    }


def live(moment: Moment, said: Path) -> None:
    """The child's whole life."""
    target = os.open(said, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    code: Any = 1
    try:
        with moment.slowed() if moment.slowed else nothing():
            cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


@contextmanager
def nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    os.environ[MARK] = "as the test has them"
    main(Path(sys.argv[1]))
