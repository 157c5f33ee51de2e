"""The step benchmark: all train the same student on the same tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import step
import torch
from loops import Plan
from resident import forget_peak, peak_mib, resident_mib, settle
from results import goal, goals_table, spread

from nexus.batch import IGNORED


def test_one_command_measures_and_writes(tmp_path: Path) -> None:
    output = tmp_path / "step"
    command = [sys.executable, str(Path(step.__file__)), "--tiny", "--rounds", "2"]
    options = ["--variants", "nexus_eager", "plain", "--output", str(output)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(output.with_suffix(".json").read_text())
    own, plain = facts["variants"]
    assert (own["name"], plain["name"]) == ("nexus_eager", "plain")
    for row in (own, plain):
        assert len(row["seconds"]) == 2
        assert len(row["losses"]) == 4
        assert row["tokens_per_second"][0] == pytest.approx(4 * 32 / row["seconds"][0])
    # Also after updates: one loss, one gradient, one optimiser.
    assert own["losses"] == pytest.approx(plain["losses"], rel=2e-3)
    assert "| plain PyTorch loop |" in done.stdout


def test_prompts_have_no_loss_and_the_shift_is_by_one() -> None:
    plan = Plan(Path(), steps=1, rows=1, length=6, prompt=3)
    ids = torch.arange(10, 16)[None]
    batch = plan.batch(ids)
    assert batch.targets.tolist() == [[IGNORED, IGNORED, 13, 14, 15, IGNORED]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert not batch.documents.any()


def test_memory_is_what_is_resident() -> None:
    before = settle()
    forget_peak()
    block = torch.ones(64 * 2**20 // 4)
    assert resident_mib() - before > 60
    del block
    assert settle() - before < 10
    assert peak_mib() - before > 60
    forget_peak()
    assert peak_mib() - before < 20


def test_goals_and_spreads_read_well() -> None:
    rows = [goal("speed", 2.5, least=2.3), goal("error", 0.005, most=0.004)]
    assert [row["met"] for row in rows] == [True, False]
    assert goals_table(rows).splitlines()[2:] == [
        "| speed | 2.5 | ≥ 2.3 | yes |",
        "| error | 0.005 | ≤ 0.004 | **no** |",
    ]
    assert spread([3.0, 1.0, 2000.0], digits=1) == "3.0 [1.0–2,000.0]"
