"""What a smaller vocabulary saves is printed beside what it costs."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest
from vocabulary import main

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


def test_kept_logits_are_the_same_and_the_rest_is_told(tmp_path: Path) -> None:
    model, tokenizer = SMALL["with_words"]()
    SMALL["save"](tmp_path / "model", model, tokenizer)
    texts = SMALL["sentences"](60)
    for name, some in (("text", texts[:50]), ("other", texts[50:])):
        SMALL["write_rows"](tmp_path / f"{name}.jsonl", [{"text": text} for text in some])
    holds = main(
        tmp_path / "model", (tmp_path / "text.jsonl",), heldout=tmp_path / "other.jsonl",
        sizes=(len(tokenizer), 300, "used"), rows=1, heldout_rows=1, output=tmp_path / "found",
    )  # fmt: skip
    facts = json.loads((tmp_path / "found.json").read_text())
    same, fewer, _ = facts["cuts"]
    assert holds and [one["logits_differ"] < 1e-4 for one in facts["cuts"]] == [True] * 3
    assert same["bits_per_byte"] == pytest.approx(facts["bits_per_byte"], rel=1e-5)
    assert same["saved"] == 0 and fewer["saved"] > 0
    assert math.isfinite(fewer["bits_per_byte"]) and fewer["heldout"]["share"] < 1
    page = (tmp_path / "found.md").read_text()
    assert "# A smaller vocabulary" in page and "≤ 0.0001" in page
