"""Answers item by item."""

from __future__ import annotations

import numpy as np
import pytest

from nexus.evaluation.answers import Answers


def test_unanswered_items_are_counted() -> None:
    answers = Answers(("a", "b", "c"), {"accuracy": np.zeros(3)}, np.array([True, False, False]))
    assert len(answers) == 3
    assert answers.unanswered == 2


@pytest.mark.parametrize(
    ("keys", "scores"),
    [(("a", "a"), np.zeros(2)), (("a",), np.zeros(2)), (("a", "b"), np.zeros(3))],
)
def test_every_item_has_one_row_and_a_key_of_its_own(keys: tuple[str, ...], scores: object) -> None:
    with pytest.raises(ValueError, match="one key"):
        Answers(
            keys, {"accuracy": np.asarray(scores)}, np.ones(len(np.asarray(scores)), dtype=bool)
        )
