"""A number becomes a proof; what is no number is never proved."""

from __future__ import annotations

import json
import math

import pytest

from nexus.training.invariants.verdict import at_most, holds, untried


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (0.0, "proved"),
        (0.5, "proved"),
        (0.51, "failed"),
        (math.inf, "failed"),
        (math.nan, "failed"),
    ],
)
def test_only_numbers_within_the_limit_are_proved(value: float, outcome: str) -> None:
    proof = at_most("loss", "it holds", value, 0.5, "gap", "Do this.")
    assert proof.outcome == outcome
    assert (proof.remedy == "") == (outcome == "proved")
    assert json.loads(proof.model_dump_json())["value"] is not None


def test_what_is_not_hard_is_doubtful() -> None:
    assert at_most("loss", "n", 1.0, 0.5, "gap", "Do this.", hard=False).outcome == "doubtful"
    assert holds("loss", "n", False, "d", "Do this.", hard=False).outcome == "doubtful"
    assert holds("loss", "n", False, "d", "Do this.").outcome == "failed"
    assert holds("loss", "n", True, "d", "Do this.").remedy == ""
    assert untried("loss", "n", "why").outcome == "skipped"
