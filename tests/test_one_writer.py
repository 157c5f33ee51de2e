"""The command line and the lock of a run directory, and what of a run may change."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.lock import acquire

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
Nexus = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = SMALL["write_workspace"](tmp_path_factory.mktemp("workspace"))
    return path


REFUSED = """
import sys
from nexus.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "pydantic", "datasets", "matplotlib"}
    print("heavy", sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_a_second_process_is_refused_before_it_loads_anything(recipe: Path) -> None:
    """To see it fail, import nexus.recipe.load in `_one_writer`."""
    place = recipe.parent / "held"
    with acquire(place):
        began = time.monotonic()
        command = [sys.executable, "-c", REFUSED, "distill", str(recipe), "--set", "output=held"]
        done = subprocess.run([*command, "--fresh"], capture_output=True, text=True)
        assert time.monotonic() - began < 20  # far less than loading takes
        assert [path.name for path in place.iterdir()] == [".lock"]
    assert done.returncode == 2 and done.stderr.endswith("heavy []\n"), done.stderr
    words = (f"{place} is being written by process {os.getpid()} on", "since", "Wait for it")
    assert not [word for word in words if word not in done.stderr]
    assert not place.exists()


def test_another_process_of_a_run_needs_no_lock_of_its_own(
    nexus: Nexus, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with acquire(recipe.parent / "shared"):
        code, _, err = nexus("distill", recipe, "--set", "output=shared", "train.stepz=1")
    assert code == 2 and "stepz" in err and "is being written" not in err


def test_two_commands_at_the_same_moment_make_one_run(recipe: Path) -> None:
    command = (
        "distill",
        str(recipe),
        "--set",
        "output=race",
        "data.heldout=[]",
        "evaluate.samples=0",
    )
    both = [
        subprocess.Popen([sys.executable, "-m", "nexus", *command], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=240)[1].decode() for one in both]
    codes = [one.returncode for one in both]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    assert "is being written by process" in refused and "Traceback" not in refused
    lines = (recipe.parent / "race" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert not (recipe.parent / "race" / ".lock").exists()


def test_a_report_while_the_run_goes_on_is_written_beside_it(nexus: Nexus, recipe: Path) -> None:
    place = recipe.parent / "going"
    assert nexus("distill", recipe, "--set", "output=going", "train.steps=1")[0] == 0
    (place / "report.html").unlink()
    before = sorted(path.name for path in place.rglob("*"))
    with acquire(place):
        code, out, _ = nexus("report", place)
    beside = recipe.parent / "going-so-far.html"
    assert code == 0 and out.strip() == str(beside) and "<html" in beside.read_text()
    assert sorted(path.name for path in place.rglob("*")) == before
    assert nexus("report", place)[0] == 0 and (place / "report.html").exists()


def test_fresh_says_where_the_old_run_is(nexus: Nexus, recipe: Path) -> None:
    command = ("distill", recipe, "--set", "output=renewed", "train.steps=1")
    assert nexus(*command)[0] == 0
    code, _, err = nexus(*command, "--fresh")
    (aside,) = recipe.parent.glob("renewed-*")
    assert code == 0 and f"the earlier run is kept as {aside}" in err


def test_what_may_change_is_allowed_by_name(nexus: Nexus, recipe: Path) -> None:
    command = ("distill", recipe, "--set", "output=changed", "train.steps=1")
    code, _, err = nexus(*command, "--allow-changed", "teecher")
    assert code == 2 and "'teecher'" in err and "did you mean 'teacher'?" in err
    assert "chat_template, data, recipe, versions" in err
    both = ("--allow-changed", "teacher", "--allow-changed", "data")
    assert nexus(*command, *both)[0] == 0
