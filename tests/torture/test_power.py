"""What a power cut takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, sys
from torture.operations import Operation
from torture.power import unflushed
print(json.dumps(unflushed(Operation(0, *row) for row in json.loads(sys.argv[1]))))
"""

CASES: dict[str, tuple[list[list[Any]], dict[str, int]]] = {
    "written": ([["open", "a"], ["write", "a"]], {"a": 0}),
    "flushed": ([["open", "a"], ["write", "a"], ["fsync", "a", "", 4]], {}),
    "written on": ([["open", "a"], ["fsync", "a", "", 4], ["write", "a"]], {"a": 4}),
    "renamed": ([["save", "a"], ["replace", "a", "b"]], {"b": 0}),
    "replaced by what is flushed": (
        [["open", "b"], ["open", "a"], ["fsync", "a", "", 1], ["replace", "a", "b"]],
        {},
    ),
    "its folder renamed": (
        [["write", "x/a"], ["fsync", "x/a", "", 3], ["write", "x/a"], ["rename", "x", "y"]],
        {"y/a": 3},
    ),
    "deleted": ([["open", "a"], ["unlink", "a"]], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_not_flushed_is_lost(name: str) -> None:
    operations, lost = CASES[name]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(operations)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert json.loads(done.stdout) == lost, done.stderr
