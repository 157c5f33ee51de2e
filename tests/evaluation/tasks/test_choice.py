"""Multiple choice, raw and by the length of the choice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nexus.evaluation.tasks import choice
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.likelihood import Likelihood
from nexus.evaluation.tasks.running import facts, run

ROWS = [
    {"id": "1", "question": "Q", "choices": ["ab", "abcdef"], "label": 1},
    {"id": "2", "question": "Q", "choices": ["é", "ab", "c"], "label": 2},
]


def saying(values: list[list[float]], asked: list[Any]) -> Any:
    def likelihoods(model: Any, tokenizer: Any, groups: Any) -> Iterator[dict[int, Any]]:
        asked.extend(groups)
        yield {
            at: [Likelihood(value, False, 1, 1, 1) for value in row]
            for at, row in enumerate(values)
        }

    return likelihoods


def test_the_sum_decides_and_the_sum_per_character_of_the_choice(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    # Raw -4 > -6, by length -4/2 < -6/6; of the second item both say the third choice.
    monkeypatch.setattr(choice, "likelihoods", saying([[-4.0, -6.0], [-3.0, -7.0, -2.0]], asked))
    found = run(Choice(path=write_items(ROWS)), model, tokenizer, folder=tmp_path)
    assert found.keys == ("1", "2")
    assert found.scores["accuracy"].tolist() == [0, 1]
    assert found.scores["accuracy_norm"].tolist() == [1, 1]
    assert [tuple(request) for request in asked[0]] == [
        ("Question: Q\nAnswer:", " ab"),
        ("Question: Q\nAnswer:", " abcdef"),
    ]


def test_length_is_in_characters_and_without_the_delimiter(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": "1", "question": "Q", "choices": ["éé", "a"], "label": 0}]
    # -5/2 > -3/1 by characters, but with the delimiter -5/3 < -3/2.
    monkeypatch.setattr(choice, "likelihoods", saying([[-5.0, -3.0]], []))
    found = run(Choice(path=write_items(rows)), model, tokenizer, folder=tmp_path)
    assert found.scores["accuracy_norm"].tolist() == [1]
    # -5/2 < -2/1 by characters, but -5/4 > -2/1 by bytes.
    monkeypatch.setattr(choice, "likelihoods", saying([[-5.0, -2.0]], []))
    found = run(Choice(path="items.jsonl"), model, tokenizer, folder=tmp_path)
    assert found.scores["accuracy_norm"].tolist() == [0]


def test_guessing_scores_the_mean_of_one_over_the_choices(write_items: Any, tmp_path: Path) -> None:
    known = facts(Choice(path=write_items(ROWS)), tmp_path)
    assert known.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (known.kind, known.metric, known.items) == ("choice", "accuracy", 2)


def test_words_and_metric_are_the_usual_ones_unless_said_otherwise(
    write_items: Any, tmp_path: Path
) -> None:
    path = write_items(ROWS)
    usual, own = Choice(path=path, name="hellaswag"), Choice(path=path, prompt="{question}=")
    assert (usual.items(tmp_path)[0].prompt, usual.headline) == ("Q", "accuracy_norm")
    assert (own.items(tmp_path)[0].prompt, own.headline) == ("Q=", "accuracy")
    assert Choice(path=path, metric="accuracy_norm").headline == "accuracy_norm"
