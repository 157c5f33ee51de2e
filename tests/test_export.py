"""nexus export, as a user starts it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nexus.exports import FORMATS

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_printed_is_what_was_found(tmp_path: Path, to: str) -> None:
    """And nothing else: libraries tell how far they are, but not there.

    To see it fail: in exports._untold, leave `redirect_stdout` out.
    """
    for needed in {"openvino": ("openvino", "nncf"), "onnx": ("onnxruntime", "onnxscript")}[to]:
        pytest.importorskip(needed)
    SMALL["save"](tmp_path / "model", SMALL["make_model"](layers=1, seed=2))
    started = [sys.executable, "-m", "nexus", "export", str(tmp_path / "model"), "--json"]
    done = subprocess.run(
        [*started, "--to", to, "--bits", "8", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "export.json").read_text())
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr and done.stderr


def test_a_mistake_is_one_line_and_ends_with_two(tmp_path: Path) -> None:
    started = [sys.executable, "-m", "nexus", "export", "absent", "--bits", "5"]
    done = subprocess.run(
        [*started, "--out", str(tmp_path / "never")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2 and done.stderr == "nexus: --bits is 5: choose 16, 8, 4\n"
    assert not (tmp_path / "never").exists()
