"""What cutting costs is set against the model that was cut."""

from __future__ import annotations

import json
from pathlib import Path

from material import write_teacher
from prune_cost import main


def test_memory_and_time_are_told_beside_their_goals(tmp_path: Path) -> None:
    write_teacher(None, tmp_path / "model", tiny=True)
    text = tmp_path / "text.jsonl"
    text.write_text(f"{json.dumps({'text': 'the of and a to in is that for it ' * 600})}\n" * 4)
    main(
        tmp_path / "model", text, target=0.787, rows=4, rounds=2, output=tmp_path / "cost",
    )  # fmt: skip
    facts = json.loads((tmp_path / "cost.json").read_text())
    assert [each["goal"] for each in facts["goals"]] == ["≤ 2.2", "≤ 2.2", "≤ 1.3"]
    assert all(len(values) == 2 for values in facts["seconds"].values())
    assert facts["model_mib"] > 0 and all(peak > 0 for peak in facts["peak_mib"].values())
    assert "# What cutting costs" in (tmp_path / "cost.md").read_text()
