"""Every arm begins and learns as it is called, on equally many tokens."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from minitron import main
from minitron_table import with_earlier

from nexus import pipeline
from nexus.recipe.load import load

WORKSPACE = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))


def distil_here(recipe: Path) -> None:
    """In this process, which has imported everything, and with little to cut by."""
    recipe.write_text(
        recipe.read_text().replace("kind: pruned", "kind: pruned\n  calibration_tokens: 512")
    )
    pipeline.run(load(recipe), recipe.parent)


def test_arms_differ_in_what_they_are_called_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minitron.distil", distil_here)
    WORKSPACE["write_workspace"](tmp_path)
    target = 45_000.0
    arms = ("pruned-kd", "random-kd", "random-ce")
    for some in (("pruned-kd", "random-ce"), ("random-kd",)):  # one table of both
        main(
            tmp_path, targets=(target,), seeds=(0,), arms=some, tokens_per_step=512,
            sequence_length=128, steps=4,
            output=tmp_path / "table",
        )  # fmt: skip
    known = json.loads((tmp_path / "table.json").read_text())
    assert with_earlier([], known["plan"] | {"steps": 5}, tmp_path / "table.json") == []
    rows = known["runs"]
    assert [row["arm"] for row in rows] == list(arms)
    assert {row["tokens"] for row in rows} == {4 * 512}
    assert all(abs(row["parameters"] / target - 1) <= 0.02 for row in rows)
    assert len({row["parameters"] for row in rows}) == 1
    pruned, random, _ = (row["heldout"]["untrained"] for row in rows)
    assert pruned["forward_kl"]["value"] < random["forward_kl"]["value"]
    for arm, kind, objective in (
        ("pruned-kd", "pruned", "output"),
        ("random-ce", "scratch", "task"),
    ):
        (recipe,) = tmp_path.glob(f"*-{arm}-0.yaml")
        text = recipe.read_text()
        assert f"kind: {kind}" in text and f"kind: {objective}" in text
