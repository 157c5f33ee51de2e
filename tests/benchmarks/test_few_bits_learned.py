"""Every way to train within few bits stands beside rounding, on the same text."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from few_bits_learned import main

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


def test_one_command_measures_all_arms(tmp_path: Path) -> None:
    SMALL["write_workspace"](tmp_path)
    main(
        tmp_path / "teacher", tmp_path / "train.jsonl", heldout=tmp_path / "heldout.jsonl",
        bits=(3,), steps=2, rows_a_step=1, heldout_rows=2, seeds=1, output=tmp_path / "found",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert [one["arm"] for one in found] == ["rounded", "fitted", "scales", "weights", "ce"]
    assert all(one["forward_kl"]["value"] > 0 for one in found)
    page = (tmp_path / "found.md").read_text()
    assert "cross-entropy on the text" in page and "rounded to nearest" in page
