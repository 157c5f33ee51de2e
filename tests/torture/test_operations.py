"""The counting of file operations, and the faults at them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, pathlib, shutil, sys
from torture.operations import Fault, Watch

folder, how, at = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
watch = Watch(folder, Fault(at, how) if at else None)
watch.install()
(folder / "new").mkdir()
with (folder / "new" / "aside").open("w") as file:
    file.write("12345678")
    file.flush()
    os.fsync(file.fileno())
os.replace(folder / "new" / "aside", folder / "new" / "final")
(folder.parent / "elsewhere").write_text("not counted")
shutil.rmtree(folder / "new")
(folder / "absent").unlink(missing_ok=True)
descriptor = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY)
os.write(descriptor, b"abcd")
print(json.dumps([[one.number, one.call, one.path] for one in watch.seen]))
"""

EXPECTED = [
    [1, "mkdir", "new"],
    [2, "open", "new/aside"],
    [3, "write", "new/aside"],
    [4, "fsync", "new/aside"],
    [5, "replace", "new/aside"],
    [6, "unlink", "new/final"],
    [7, "rmdir", "new"],
    [8, "unlink", "absent"],
    [9, "os.open", "raw"],
    [10, "write", "raw"],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "watched").mkdir()
    return tmp_path / "watched"


def done(folder: Path, how: str = "none", at: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how, str(at)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent)},
    )


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def test_every_operation_beneath_the_folder_counts_and_none_elsewhere(folder: Path) -> None:
    assert json.loads(done(folder).stdout) == EXPECTED
    assert (folder.parent / "elsewhere").exists()


@pytest.mark.parametrize(
    ("how", "at", "left"),
    [
        ("before", 1, {}),
        ("after", 1, {"new": "folder"}),
        ("before", 3, {"new": "folder", "new/aside": ""}),
        ("after", 3, {"new": "folder", "new/aside": "1234"}),
        ("before", 5, {"new": "folder", "new/aside": "12345678"}),
        ("after", 5, {"new": "folder", "new/final": "12345678"}),
        ("before", 7, {"new": "folder"}),
        ("after", 8, {}),
        ("after", 10, {"raw": "ab"}),
    ],
)
def test_a_kill_leaves_what_was_done_so_far(
    folder: Path, how: str, at: int, left: dict[str, str]
) -> None:
    assert done(folder, how, at).returncode == -9
    assert contents(folder) == left


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 9, 10])
def test_an_error_names_its_path(folder: Path, number: int) -> None:
    ended = done(folder, "EIO", number)
    assert ended.returncode == 1
    assert "[Errno 5] Input/output error" in ended.stderr
    assert str(EXPECTED[number - 1][2]) in ended.stderr.splitlines()[-1]


def test_a_full_disk_stays_full(folder: Path) -> None:
    assert "No space left" in done(folder, "ENOSPC", 3).stderr
    assert contents(folder) == {"new": "folder", "new/aside": "1234"}
