"""nexus export, as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_mistake_is_one_line_and_ends_with_two(tmp_path: Path) -> None:
    started = [sys.executable, "-m", "nexus", "export", "absent", "--bits", "5"]
    done = subprocess.run(
        [*started, "--out", str(tmp_path / "never")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2 and done.stderr == "nexus: --bits is 5: choose 16, 8, 4\n"
    assert not (tmp_path / "never").exists()
