"""What was measured is not measured again, unless it was damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nexus.evaluation.answers import Answers
from nexus.evaluation.kept import Kept, folder_of

ANSWERS = Answers(
    keys=("a", "b", "c"),
    scores={"accuracy": np.array([1.0, 0.0, 1.0]), "part": np.array([0.1, 1 / 3, -7.5])},
    answered=np.array([True, False, True]),
    clusters=("x", "x", "y"),
)


def never(ledger: Path | None) -> Answers:
    raise AssertionError("asked again")


def same(one: Answers, other: Answers) -> bool:
    return (
        (one.keys, one.clusters, sorted(one.scores))
        == (other.keys, other.clusters, sorted(other.scores))
        and all(np.array_equal(one.scores[name], other.scores[name]) for name in one.scores)
        and np.array_equal(one.answered, other.answered)
    )


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "new")
    ledgers: list[Path | None] = []

    def ask(ledger: Path | None) -> Answers:
        ledgers.append(ledger)
        return ANSWERS

    assert same(kept.answers("a task/of mine", "f" * 64, ask), ANSWERS)
    assert same(kept.answers("a task/of mine", "f" * 64, never), ANSWERS)
    assert ledgers[0] is not None and ledgers[0].parent == tmp_path / "new"


def test_another_fingerprint_is_another_question(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.answers("easy", "a" * 64, lambda ledger: ANSWERS)
    assert kept.known_answers("easy", "b" * 64) is None
    assert kept.known_answers("hard", "a" * 64) is None
    with pytest.raises(AssertionError, match="asked again"):
        kept.answers("easy", "b" * 64, never)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"keys": ["a"], "scores": {}}'])
def test_damaged_answers_are_asked_again_and_told(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    kept = Kept(tmp_path, said.append)
    kept.answers("easy", "a" * 64, lambda ledger: ANSWERS)
    (file,) = tmp_path.glob("*.json")
    file.write_text(damage)
    assert kept.known_answers("easy", "a" * 64) is None
    assert "is damaged" in said[0] and str(file) in said[0]
    assert same(kept.answers("easy", "a" * 64, lambda ledger: ANSWERS), ANSWERS)


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Kept(None)
    assert same(kept.answers("easy", "a" * 64, lambda ledger: ANSWERS), ANSWERS)
    assert kept.known_answers("easy", "a" * 64) is None
    assert kept.known_fidelity("text") is None


def test_each_model_has_a_folder() -> None:
    assert folder_of(Path("out"), "a" * 64) != folder_of(Path("out"), "b" * 64)
