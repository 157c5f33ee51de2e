"""The benchmark of checkpoints runs, and writes what it says."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "checkpoint.py"


def test_it_measures_both_and_publishes_the_ratio(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--tiny", "--rounds", "3"]
    where = ["--folder", str(tmp_path), "--output", str(tmp_path / "checkpoint")]
    done = subprocess.run([*command, *where], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    seconds = {name: statistics.median(each) for name, each in facts["seconds"].items()}
    assert all(len(each) == 3 for each in facts["seconds"].values())
    assert facts["ratio"] == seconds["checkpoint"] / seconds["plain"]
    assert facts["bytes"] > 3 * 4 * facts["parameters"]
    assert f"{facts['ratio']:.2f} times as long" in (tmp_path / "checkpoint.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.json", "checkpoint.md"}


def test_nothing_to_time_is_refused() -> None:
    command = [sys.executable, str(BENCHMARK), "--tiny", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "checkpoint.py: rounds is 0: at least one must be timed\n"
