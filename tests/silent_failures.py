"""Put the bugs of docs/reference/silent-failures.md in, one at a time, and see the test fail.

    python tests/silent_failures.py            all of them, in a copy of the sources (minutes)
    python tests/silent_failures.py 4 9        some of them

A test that cannot fail guards nothing. Each row of the page names a test and one change of the
code that brings the failure in; here the change is made and the test is run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "silent-failures.md"
FOLDERS = ("src", "tests", "examples", "recipes", "benchmarks", "docs")
ROW = re.compile(
    r"^\| (?P<number>\d+) \| (?P<failure>.+?) \| (?P<guard>.+?) \| `(?P<test>tests/\S.*?)` "
    r"\| `(?P<file>src/\S+)`: `(?P<old>.+?)` → `(?P<new>.*?)` \|$"
)


@dataclass(frozen=True)
class Bug:
    """A row of the page."""

    number: int
    failure: str
    test: str
    """A node of pytest."""
    file: str
    old: str
    """Stands once in the file."""
    new: str

    @property
    def place(self) -> tuple[Path, list[str]]:
        """The file of the test, and its name, with that of its class before it."""
        file, *names = self.test.partition("[")[0].split("::")
        return ROOT / file, names


def bugs() -> list[Bug]:
    """All rows of the page.

    Raises:
        ValueError: for a row that is not of the form of the others.
    """
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if re.match(r"\| \d", line):
            row = ROW.match(line)
            if row is None:
                raise ValueError(f"not a row of {PAGE.name}: {line}")
            parts = row.groupdict()
            found.append(
                Bug(
                    int(parts["number"]), parts["failure"], parts["test"],
                    parts["file"], parts["old"], parts["new"],
                )
            )  # fmt: skip
    return found


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def fails(bug: Bug, folder: Path) -> bool:
    """Whether the test fails with the bug in. The copy is as before afterwards."""
    file = folder / bug.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(bug.old, bug.new), encoding="utf-8")
    try:
        return run(folder, bug.test).returncode == 1  # 2 and more: there was no such test
    finally:
        file.write_text(whole, encoding="utf-8")


def main(wanted: list[int]) -> int:
    chosen = [bug for bug in bugs() if not wanted or bug.number in wanted]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in FOLDERS:
            shutil.copytree(ROOT / each, folder / each)
        shutil.copy(ROOT / "pyproject.toml", folder)
        sound = run(folder, *dict.fromkeys(bug.test for bug in chosen))
        if sound.returncode:
            print(sound.stdout)
            return 1
        for bug in chosen:
            noticed = fails(bug, folder)
            unnoticed += not noticed
            said = "noticed" if noticed else "NOT NOTICED"
            print(f"{said:11}  {bug.number:3}  {bug.failure}", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} bugs were noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main([int(argument) for argument in sys.argv[1:]]))
