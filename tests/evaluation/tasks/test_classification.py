"""Classification by the words of the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.evaluation.tasks.classification import Classification, influence, matthews
from nexus.evaluation.tasks.running import facts, run

NAMES = ["bad", "good"]


def rows(labels: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "text": f"T{n}", "label": label, "label_text": NAMES[label]}
        for n, label in enumerate(labels)
    ]


def test_guessing_scores_the_share_of_the_most_frequent_label(
    write_items: Any, tmp_path: Path
) -> None:
    path = write_items(rows([0, 1, 1, 1]))
    assert facts(Classification(path=path), tmp_path).chance == 0.75
    three = Classification(path=write_items(rows([0, 1])), labels=("a", "b", "c"))
    assert facts(three, tmp_path).chance == 0.5


def test_labels_are_those_of_the_whole_file_whatever_the_limit(
    write_items: Any, tmp_path: Path
) -> None:
    path = write_items(rows([0] * 9 + [1]))
    for limit in range(1, 11):
        items = Classification(path=path, limit=limit).items(tmp_path)
        assert len(items) == limit
        assert {item.answers for item in items} == {("bad", "good")}


def test_words_and_prompts_may_be_given(write_items: Any, tmp_path: Path) -> None:
    path = write_items([row | {"text2": "S"} for row in rows([1, 0])])
    given_words = Classification(path=path, labels=("no", "yes"), prompt="{text2}{text}:")
    assert given_words.items(tmp_path)[0].prompt == "ST0:"
    assert given_words.items(tmp_path)[0].answers == ("no", "yes")
    assert Classification(path=path).items(tmp_path)[0].prompt == "T0\nS\nLabel:"
    write_items(rows([1, 0]))
    assert Classification(path=path).items(tmp_path)[0].prompt == "T0\nLabel:"
    usual = Classification(path=path, name="sst2").items(tmp_path)[0]
    assert usual.prompt == "Review: T0\nSentiment:"


def test_exactly_one_label_is_right(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path
) -> None:
    """The same texts with every label in turn: what the model says is right once."""
    totals = 0
    for shift in range(2):
        path = write_items(rows([(n + shift) % 2 for n in range(6)]))
        totals = (
            totals
            + run(Classification(path=path), model, tokenizer, folder=tmp_path).scores["accuracy"]
        )
    assert list(totals) == [1.0] * 6  # type: ignore[call-overload]


def test_a_gap_between_the_labels(write_items: Any, tmp_path: Path) -> None:
    path = write_items([{"id": "1", "text": "T", "label": 2, "label_text": "x"}, *rows([0])])
    with pytest.raises(UsageError, match=r"^items.jsonl: its labels are 0, 2, .* name all of them"):
        Classification(path=path).items(tmp_path)


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], ["a", " "]])
def test_words_that_cannot_be_told_apart(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="at least two words"):
        Classification.parse({"path": "x", "labels": labels})


COUNTS = st.integers(0, 20)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_matthews_of_two_classes_is_the_correlation_of_the_table(
    tp: int, tn: int, fp: int, fn: int
) -> None:
    predicted = np.array([1] * tp + [0] * tn + [1] * fp + [0] * fn)
    labels = np.array([1] * tp + [0] * tn + [0] * fp + [1] * fn)
    if not len(labels):
        return
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / spread**0.5 if spread else 0.0
    assert matthews(predicted, labels) == pytest.approx(expected)
    assert influence(predicted, labels).mean() == pytest.approx(expected)


def test_matthews_of_three_classes() -> None:
    labels = np.arange(3)
    assert matthews(labels, labels) == 1.0
    assert matthews(np.array([0, 2, 1]), labels) == pytest.approx(0.0)
    assert matthews(np.array([1, 2, 0]), labels) == pytest.approx(-0.5)


def test_the_spread_of_the_influences_is_the_error_of_the_correlation() -> None:
    """Over many samples of one population, two labels that agree in three of four."""
    draw, n = np.random.default_rng(0), 200
    found, errors = [], []
    for _ in range(400):
        labels = draw.integers(0, 2, n)
        predicted = np.where(draw.random(n) < 0.75, labels, 1 - labels)
        found.append(matthews(predicted, labels))
        errors.append(influence(predicted, labels).std(ddof=1) / n**0.5)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)  # its own error is 3.5 %


def test_matthews_is_given_where_asked(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path
) -> None:
    path, ledger = write_items(rows([0, 1, 1, 0, 1, 0, 0])), tmp_path / "ledger.jsonl"
    task = Classification(path=path, matthews=True)
    assert (
        "matthews"
        not in run(
            Classification(path=path), model, tokenizer, folder=tmp_path, ledger=ledger
        ).scores
    )
    found = run(task, model, tokenizer, folder=tmp_path, ledger=ledger)
    labels = np.array([row["label"] for row in rows([0, 1, 1, 0, 1, 0, 0])])
    predicted = np.where(found.scores["accuracy"] == 1, labels, 1 - labels)
    assert found.scores["matthews"].mean() == pytest.approx(matthews(predicted, labels))
