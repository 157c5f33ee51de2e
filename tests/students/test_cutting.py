"""Text is for importance first and for the search then; a decision is that of one way of asking."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from nexus.data.loader import from_padded
from nexus.students.cutting import Decision, apart


def test_the_first_tokens_are_for_importance() -> None:
    text = [from_padded(torch.zeros(1, 10, dtype=torch.long)) for _ in range(5)]
    first, rest = apart(text, 25)
    assert (len(first), len(rest)) == (3, 2)
    assert apart(text, 1_000) == (text, [])


def test_a_decision_holds_for_what_was_asked(tmp_path: Path) -> None:
    one = Decision.of(tmp_path, {"target": 0.5})
    assert one.sizes is None
    sizes = {"layers": 1, "hidden": 8, "neurons": 8, "heads": 2, "groups": 1, "head_dim": 4}
    record = {"key": one.key, "after": sizes | {"vocabulary": 9}}
    one.path.write_text(json.dumps(record))
    found = one.sizes
    assert found is not None and found == replace(found, layers=1, vocabulary=9)
    assert Decision.of(tmp_path, {"target": 0.6}).sizes is None
