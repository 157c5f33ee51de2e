"""Runs of several processes, of which one is killed, frozen or wrong. Real ones."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKSPACE = runpy.run_path(str(Path(__file__).parent / "workspace.py"))
COMMON = {**os.environ, "OMP_NUM_THREADS": "1", "NEXUS_MEMORY": "as it is"}
LONG = ("--set", "train.steps=100000", "--set", "train.save_every=5")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe: Path = WORKSPACE["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return recipe


def nexus(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        env={**COMMON, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_ranks(*arguments: Any) -> list[subprocess.Popen[str]]:
    """As torchrun starts them, without it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        nexus("nexus", *arguments, **where, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)
    ]


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def steps_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def children(pid: int) -> list[int]:
    """All processes below one, those without children of their own."""
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    below = [leaf for child in map(int, direct) for leaf in children(child)]
    return below or [pid]


def is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    try:
        said = process.communicate(timeout=seconds)[1]
    finally:
        process.kill()
    return process.returncode, said


def test_a_frozen_process_ends_the_other_within_the_timeout(recipe: Path) -> None:
    """To see it fail: in parallel.processes, do not pass `timeout`, which is then ten minutes."""
    options = ("--timeout-seconds", "4", "--set", "output=frozen")
    first, second = two_ranks("distill", recipe, *LONG, *options)
    try:
        until(lambda: steps_of(recipe.parent / "frozen") > 3)
        second.send_signal(signal.SIGSTOP)
        code, said = ended(first, 4 + 10)
    finally:
        second.kill()
        second.communicate()
    assert code == 75
    assert "has not answered for 4 seconds" in said and "same command again" in said
    assert "Traceback" not in said


def test_a_killed_process_is_replaced_and_nothing_is_lost(recipe: Path) -> None:
    """The weights are bit for bit those of a run that nobody disturbed.

    To see it fail: in StageTensors.read, leave out the moments, or in Supervisor begin anew.
    """
    options = ("--set", "train.steps=30", "train.save_every=4", "train.parallel=fsdp2")
    for calm in two_ranks("distill", recipe, *options, "output=calm"):
        assert ended(calm, 240)[0] == 0
    run = recipe.parent / "killed"
    job = nexus("nexus", "distill", recipe, *options, "output=killed", "--processes", "2")
    until(lambda: steps_of(run) > 6)
    first, second = children(job.pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: is_gone(second), seconds=10)
    code, said = ended(job, 240)
    assert code == 0, said
    assert "SIGKILL" in said and said.count("started again from its newest checkpoint") == 1
    assert "Traceback" not in said and "Error" not in said
    one, other = (
        (recipe.parent / name / "student/model.safetensors").read_bytes()
        for name in ("calm", "killed")
    )
    assert one == other


def test_a_signal_to_the_supervisor_stops_all_resumably(recipe: Path) -> None:
    run = recipe.parent / "stopped"
    job = nexus("nexus", "distill", recipe, *LONG, "--set", "output=stopped", "--processes", "2")
    until(lambda: steps_of(run) > 3)
    below = children(job.pid)
    job.send_signal(signal.SIGINT)
    code, said = ended(job, 30)
    assert code == 75 and said.count("same command again") == 1
    assert "started again" not in said
    assert all(is_gone(pid) for pid in below)
    assert list(run.glob("checkpoints/train/step-*"))


def test_what_all_processes_find_is_said_once(recipe: Path) -> None:
    wrong = ("--set", "data.heldout=[{kind: jsonl, path: missing.jsonl}]", "--set", "output=wrong")
    code, said = ended(nexus("nexus.job", "2", "distill", recipe, *wrong), 240)
    assert code == 2
    assert said.count("missing.jsonl") == 1 and "Traceback" not in said
    assert said.count("nexus:") == 1
