"""SIGTERM, SIGINT and SIGUSR1 at any moment: exit code 75 within ten seconds, then resumable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from torture.trials import Kind, Result, Trial, described

GRACE = 10.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
RESUMABLE = 75


def asked_to_stop(trial: Trial) -> Result:
    """One of the signals at a random time; every fifth time twice, which ends it at once."""
    number = SIGNALS[trial.number % len(SIGNALS)]
    for _ in range(8):
        child = trial.command()
        if not child.ended_before(trial.random.random() * trial.bench.seconds):
            child.send(number)
            asked = time.monotonic()
            if trial.number % 5 == 0 and not child.ended_within(0.01):
                child.send(number)
            ended = child.end(within=4 * GRACE)
            took = time.monotonic() - asked
            if ended.code == 0:  # it was finished by the time that it heard
                trial.begin()
                continue
            if ended.code != RESUMABLE or "Traceback" in ended.said:
                return trial.failed(f"after {number.name}: {described(ended)}")
            if took > GRACE:
                return trial.failed(f"{number.name} took {took:.1f} s: {described(ended)}")
            return trial.conclude()
        child.end()
        trial.begin()
    return trial.failed("ended before it was asked, eight times over")


def asked_from_outside(trial: Trial) -> Result:
    """A process as users start it, which has everything still to import, is asked to stop."""
    number = SIGNALS[trial.number % len(SIGNALS)]
    recipe = trial.place / trial.bench.recipe.name
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("NEXUS_MEMORY", None)
    said = trial.folder / "said-process.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "nexus", "distill", str(recipe)],
            stdout=file,
            stderr=file,
            env=environment,
        )
    _wait_until_it_listens(process.pid)
    moment = 12 * trial.random.random() ** 2  # most of the time goes into imports
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    asked = time.monotonic()
    try:
        code = process.wait(4 * GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    took, text = time.monotonic() - asked, said.read_text(errors="replace")
    if code not in (0, RESUMABLE) or took > GRACE or "Traceback" in text:
        return trial.failed(
            f"{number.name} after {moment:.2f} s: exit code {code} after {took:.1f} s\n{text}"
        )
    return trial.conclude(struck=code == RESUMABLE)


def _wait_until_it_listens(pid: int) -> None:
    """Until SIGTERM has a handler. What comes before is Python's own start."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), None)
        if caught is None or int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


KINDS = (
    Kind("signal", "signals at a random moment", 6, lambda bench: 100, asked_to_stop),
    Kind("process", "signals while a process starts", 0, lambda bench: 6, asked_from_outside),
)
