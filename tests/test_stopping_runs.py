"""Whole runs that are asked to stop at any moment, in real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("signalled.py")
SOON = 10.0
MOMENTS = [
    "reading data", "loading", "making the student", "first evaluation", "first step", "saving",
    "verifying", "endless step", "endless step, twice", "a later step", "saving the student",
    "evaluation", "report",
]  # fmt: skip
MEASURED = {"seconds", "tokens_per_second", "peak_memory_gib"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs left behind that signalled.py disturbed."""
    folder = tmp_path_factory.mktemp("signalled")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads((folder / "told.json").read_text())}


@pytest.mark.parametrize("name", MOMENTS)
def test_stopped_anywhere_it_is_gone_soon_and_resumable(
    told: dict[str, dict[str, Any]], name: str
) -> None:
    moment = told[name]
    assert moment["code"] == 75, moment["said"]
    assert moment["seconds"] < SOON
    assert "Run the same command again to continue" in moment["said"]
    assert "Traceback" not in moment["said"]


def test_a_step_that_does_not_end_says_where_the_run_goes_on(
    told: dict[str, dict[str, Any]],
) -> None:
    assert "the run goes on from step 8" in told["endless step"]["said"]
    assert "stopped at once" in told["endless step, twice"]["said"]
    assert told["endless step, twice"]["seconds"] < 2


def test_stopped_everywhere_it_ends_as_if_it_had_not_been(
    folder: Path, told: dict[str, dict[str, Any]]
) -> None:
    assert told["undisturbed"]["code"] == 0, told["undisturbed"]["said"]
    one, two = (folder / "workspace" / name for name in ("undisturbed", "disturbed"))
    weights = [(run / "student/model.safetensors").read_bytes() for run in (one, two)]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()
    lines = [repeatable(run / "metrics.jsonl") for run in (one, two)]
    assert len(lines[0]) == 12 and lines[0] == lines[1]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


def repeatable(metrics: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k not in MEASURED} for entry in entries]


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        (0.0, signal.SIGTERM),
        (0.1, signal.SIGINT),
        (0.4, signal.SIGUSR1),
        (1.0, signal.SIGTERM),
        (2.5, signal.SIGINT),
    ],
)
def test_asked_while_it_starts_it_leaves_nothing_behind(
    folder: Path, seconds: float, number: signal.Signals
) -> None:
    """While it imports, starts itself again with other memory settings, and imports again."""
    recipe = folder / "workspace" / "recipe.yaml"
    output = f"started-{seconds}"
    environment = {name: value for name, value in os.environ.items() if name != "NEXUS_MEMORY"}
    started = subprocess.Popen(
        [sys.executable, "-m", "nexus", "distill", str(recipe), "--set", f"output={output}"],
        env={**environment, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until_it_listens(started)
    time.sleep(seconds)
    started.send_signal(number)
    _, said = started.communicate(timeout=SOON)
    assert started.returncode == 75, said
    assert "Run the same command again to continue" in said and "Traceback" not in said


def wait_until_it_listens(started: subprocess.Popen[str]) -> None:
    """Until it has a handler for SIGTERM: what comes before is Python's own start."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and started.poll() is None:
        status = Path(f"/proc/{started.pid}/status").read_text().splitlines()
        caught = next(line for line in status if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)
    pytest.fail("it never listened")
