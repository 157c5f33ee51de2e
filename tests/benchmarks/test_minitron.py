"""Every arm begins and learns as it is called, on equally many tokens."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from minitron import main

WORKSPACE = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))


def test_arms_differ_in_what_they_are_called_by(tmp_path: Path) -> None:
    WORKSPACE["write_workspace"](tmp_path)
    target = 45_000.0
    arms = ("pruned-kd", "random-ce")
    for _ in range(2):  # the second time nothing is trained
        main(
            tmp_path, targets=(target,), seeds=(0,), arms=arms, tokens_per_step=512,
            sequence_length=128, steps=4,
            output=tmp_path / "table",
        )  # fmt: skip
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(arms)
    assert {row["tokens"] for row in rows} == {4 * 512}
    assert all(abs(row["parameters"] / target - 1) <= 0.02 for row in rows)
    assert rows[0]["parameters"] == rows[1]["parameters"]
    pruned, random = (row["heldout"]["0"]["untrained"] for row in rows)
    assert pruned["forward_kl"]["value"] < random["forward_kl"]["value"]
    for arm, kind, objective in (
        ("pruned-kd", "pruned", "output"),
        ("random-ce", "scratch", "task"),
    ):
        (recipe,) = tmp_path.glob(f"*-{arm}-0.yaml")
        text = recipe.read_text()
        assert f"kind: {kind}" in text and f"kind: {objective}" in text
