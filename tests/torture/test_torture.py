"""Some forty points of `make torture`, of every kind some."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
TIMEOUT = 900


@pytest.mark.skipif(sys.platform != "linux", reason="the harness needs fork, /proc and signals")
def test_a_run_comes_through_whatever_is_done_to_it() -> None:
    """Fails if, for one, a checkpoint is renamed before its files are written, the random state
    is not restored, or the metrics of repeated steps are kept twice."""
    done = subprocess.run(
        [sys.executable, "-m", "torture", "--points", "40", "--workers", "1"],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^\| all .*", done.stdout, re.M)
    assert total is not None, done.stdout
    numbers = list(map(int, re.findall(r"\d+", total[0])))
    points, struck, resumed, to_resume, identical, to_be_identical, _ = numbers
    assert points >= 80 and struck >= 70
    assert resumed == to_resume == identical == to_be_identical >= 36
