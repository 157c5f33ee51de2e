"""Classification: which label's word the model finds likeliest after the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import field_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.data.faults import BadRow
from nexus.data.sources import Row
from nexus.errors import UsageError
from nexus.evaluation.tasks.encoding import Request
from nexus.evaluation.tasks.likelihood import likelihoods
from nexus.evaluation.tasks.reading import key, label, read_items, read_rows, render, text
from nexus.evaluation.tasks.task import Item, Scored, TaskSpec, sample
from nexus.evaluation.tasks.wordings import is_known, wording_of

_PLAIN, _PAIR = "{text}\nLabel:", "{text}\n{text2}\nLabel:"


class Classification(TaskSpec):
    """Rows with `text`, perhaps `text2`, and `label`, a number from 0, named by `label_text`."""

    kind: Literal["classification"] = "classification"
    path: str
    prompt: str | None = None
    """What is put before the label's word, with `{column}`s of the row in it. Else the usual words
    for a task of this name, or the text and `Label:`."""
    labels: tuple[str, ...] = ()
    """The word for each label, in order. Else `label_text`, which the rows must then have."""
    delimiter: str = " "
    """Between prompt and word."""
    matthews: bool = False
    """Also give the correlation of what is said with what is right, from -1 to 1: 0 for whoever
    always says the same, which accuracy rewards where one label is frequent."""

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels and (len(set(labels)) < max(2, len(labels)) or not all(map(str.strip, labels))):
            raise ValueError("it needs at least two words, none empty and no two the same")
        return labels

    @property
    def headline(self) -> str:
        return "accuracy"

    @property
    def wording(self) -> Mapping[str, Any]:
        return {"delimiter": self.delimiter}

    def items(self, folder: Path) -> Sequence[Item]:
        rows = read_rows(self.path, folder)
        words = self.labels or self._words(rows)
        prompt = self.prompt if self.prompt is not None else self._usual(rows[0])

        def item(row: Row) -> Item:
            text(row, "text")
            right = label(row, "label", len(words), "labels")
            return Item(key(row), render(prompt, row), words, right)

        return sample(read_items(rows, item), self.limit)

    def chance(self, items: Sequence[Item]) -> float:
        """That of always naming the most frequent label: never below that of guessing evenly."""
        most = Counter(item.label for item in items).most_common(1)[0][1]
        return most / len(items)

    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        groups = [
            [Request(item.prompt, self.delimiter + word) for word in item.answers] for item in items
        ]
        for found in likelihoods(model, tokenizer, groups):
            scored = {}
            for at, said in found.items():
                sums = np.array([each.log_probability for each in said])
                scored[items[at].key] = Scored(
                    {"accuracy": float(sums.argmax() == items[at].label)},
                    said={"label": int(sums.argmax()), "log_probabilities": sums.tolist()},
                )
            yield scored

    def jointly(
        self, items: Sequence[Item], scored: Sequence[Scored]
    ) -> Mapping[str, Float[ndarray, " n"]]:
        if not self.matthews:
            return {}
        labels = np.array([item.label for item in items])
        predicted = np.array([int(one.said["label"]) for one in scored])
        return {"matthews": influence(predicted, labels)}

    def _usual(self, first: Row) -> str:
        if is_known(self.name):
            return wording_of(self.name).prompt
        return _PAIR if "text2" in first.columns else _PLAIN

    def _words(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The labels' own names, from all rows, whatever the limit."""
        names: dict[int, str] = {}

        def name(row: Row) -> Item:
            number, called = label(row, "label", None, "labels"), text(row, "label_text")
            if (before := names.setdefault(number, called)) != called:
                raise BadRow(
                    f"column 'label_text' is '{called}' for label {number}, which was '{before}' "
                    "above: give a label one name"
                )
            return Item(key(row), "", ())

        read_items(rows, name)
        missing = [number for number in range(max(names) + 1) if number not in names]
        if missing or len(names) < 2:
            found = ", ".join(map(str, sorted(names)))
            raise UsageError(
                f"{self.path}: its labels are {found}, and they must be 0, 1, … without a gap, at "
                "least two. Number them so, or name all of them: labels: [word of 0, word of 1, …]."
            )
        usual = wording_of(self.name).words
        return tuple(usual.get(names[number], names[number]) for number in range(len(names)))


def matthews(predicted: Int[ndarray, " n"], labels: Int[ndarray, " n"]) -> float:
    """The correlation of two labellings, from -1 to 1; 0 if either never changes.

    For several classes it is Gorodkin's R_K (doi:10.1016/j.compbiolchem.2004.09.006).
    """
    return _correlation(_table(predicted, labels))


def influence(predicted: Int[ndarray, " n"], labels: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
    """By item, the correlation and how much the item moves it: their mean is the correlation.

    These are the jackknife's pseudo-values without its correction of the bias: the error of their
    mean is the jackknife's estimate of the correlation's error (Efron & Tibshirani 1993, ch. 11).
    """
    table, n = _table(predicted, labels), len(labels)
    without = np.full(table.shape, np.nan)
    for cell in zip(*np.nonzero(table), strict=True):
        rest = table.copy()
        rest[cell] -= 1
        without[cell] = _correlation(rest)
    moved: Float[ndarray, " n"] = without[labels, predicted]
    values: Float[ndarray, " n"] = _correlation(table) + (n - 1) * (moved.mean() - moved)
    return values


def _table(predicted: Int[ndarray, " n"], labels: Int[ndarray, " n"]) -> Float[ndarray, "c c"]:
    count = int(max(predicted.max(), labels.max())) + 1
    table = np.zeros((count, count))
    np.add.at(table, (labels, predicted), 1)
    return table


def _correlation(table: Float[ndarray, "c c"]) -> float:
    n, right = table.sum(), np.trace(table)
    true, told = table.sum(1), table.sum(0)
    spread = (n**2 - (true**2).sum()) * (n**2 - (told**2).sum())
    return float((n * right - true @ told) / np.sqrt(spread)) if spread > 0 else 0.0
