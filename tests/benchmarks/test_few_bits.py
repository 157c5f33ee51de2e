"""Every scheme stands in the table, with and without text where that makes a difference."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from few_bits import main

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


def test_more_bits_are_nearer_to_the_model(tmp_path: Path) -> None:
    SMALL["write_workspace"](tmp_path)
    main(
        tmp_path / "teacher", tmp_path / "train.jsonl", heldout=tmp_path / "heldout.jsonl",
        rows=2, output=tmp_path / "found",
    )  # fmt: skip
    facts = json.loads((tmp_path / "found.json").read_text())
    kl = {(one["scheme"], one["fitted"]): one["forward_kl"]["value"] for one in facts["found"]}
    of_bits = [min(kl[key] for key in kl if key[0].startswith(f"int{n} ")) for n in (8, 4, 3)]
    assert 0 < of_bits[0] < of_bits[1] < of_bits[2]
    assert ("int8_dynamic (a row)", False) in kl
    assert ("int4 (groups of 64)", True) in kl
    page = (tmp_path / "found.md").read_text()
    assert "int3 (groups of 32, asymmetric), fitted to text" in page
