from __future__ import annotations

from nexus.proofs import Check, Proof
from nexus.report.checks import checks_view


def proof(outcome: str, name: str) -> Proof:
    return Proof.parse({"group": "loss", "name": name, "outcome": outcome}, "proof")


def test_the_worst_comes_first_and_signs_have_words() -> None:
    names = ("proved", "doubtful", "failed", "skipped")
    view = checks_view(Check(proofs=tuple(proof(name, name) for name in names), seconds=3.0))
    assert view is not None
    assert [row.name for row in view.urgent] == ["failed", "doubtful"]
    assert [row.word for row in view.rest] == ["not tried", "proved"]
    assert len({row.sign for row in (*view.urgent, *view.rest)}) == 4
    assert "1 failed, 1 doubtful, 1 not tried, 1 proved" in view.summary


def test_nothing_tried_is_no_table() -> None:
    assert checks_view(None) is None
    assert checks_view(Check(proofs=(), seconds=0.0)) is None
