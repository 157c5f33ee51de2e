"""nexus quantize, as a user starts it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "nexus", "quantize", *arguments]
    return subprocess.run(started, capture_output=True, text=True, timeout=240)


def test_the_command_writes_and_tells(tmp_path: Path) -> None:
    SMALL["save"](tmp_path / "model", SMALL["make_model"](layers=1, seed=1))
    model, out = str(tmp_path / "model"), tmp_path / "four"
    done = command(model, "--bits", "4", "--group-size", "32", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "7 layers in int4" in done.stdout
    assert "since it is the head" in done.stdout and "lm_head" in done.stdout
    facts = json.loads((out / "quantization.json").read_text())
    assert (facts["scheme"], facts["group_size"], facts["layers"]) == ("int4", 32, 7)


def test_a_mistake_is_one_line_and_ends_with_two(tmp_path: Path) -> None:
    done = command(str(tmp_path), "--bits", "5", "--out", str(tmp_path / "never"))
    assert done.returncode == 2 and done.stderr == "nexus: bits is 5: choose 8, 4, 3\n"
