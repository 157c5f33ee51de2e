"""What the clock on the wall says decides nothing: it may jump hours in either direction."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import runpy
import time
from pathlib import Path

import pytest

from nexus.pipeline import run
from nexus.recipe.load import load
from nexus.stopping import Stopping

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
CHANGES = (
    *("data.heldout=[]", "evaluate.samples=0", "evaluate.speed_seconds=0.05"),
    *("train.steps=8", "train.save_every=2", "train.keep_checkpoints=2"),
)


class Dead(Exception):
    """Ends a run where a power cut would."""


class Dying(Stopping):
    """Ends the run right after step 6 was saved, before anything else is written."""

    def __init__(self, checkpoints: Path) -> None:
        super().__init__()
        self._checkpoints = checkpoints

    def __call__(self) -> bool:
        if (self._checkpoints / "step-000006").exists():
            raise Dead
        return False


def test_a_clock_that_jumps_changes_neither_order_nor_pruning_nor_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To see it fail, have checkpoints pruned by the time they were written."""
    recipe = SMALL["write_workspace"](tmp_path)
    whole = run(load(recipe, (*CHANGES, "output=whole")), tmp_path)
    hours = itertools.cycle([0, 2, -5, 1, -9000])
    real, monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: max(0.0, real() + 3600 * next(hours)))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()

    folder = tmp_path / "run" / "checkpoints" / "train"
    asked = load(recipe, (*CHANGES, "output=run"))
    with pytest.raises(Dead):
        run(asked, tmp_path, stopping=Dying(folder))
    kept = sorted(folder.glob("step-*"))
    assert [path.name for path in kept] == ["step-000004", "step-000006"]
    for age, path in enumerate(kept):  # the newest looks the oldest
        os.utime(path, (monotonic() - 1e5 * age,) * 2)
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    again = run(asked, tmp_path)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-000006", "step-000008"]
    lines = (again.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
    ends = [
        hashlib.sha256((each.student / "model.safetensors").read_bytes()).digest()
        for each in (whole, again)
    ]
    assert ends[0] == ends[1]
    left = re.findall(r"time left (.+)", capsys.readouterr().err)
    assert left and all(re.fullmatch(r"–|\d{1,2} s|\d+ min \d\d s", text) for text in left)
    monkeypatch.undo()
    time.tzset()
