"""Multiple choice: which of the choices the model finds likeliest after the question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.data.sources import Row
from nexus.evaluation.tasks.encoding import Request
from nexus.evaluation.tasks.likelihood import Likelihood, likelihoods
from nexus.evaluation.tasks.reading import key, label, read_items, read_rows, render, texts
from nexus.evaluation.tasks.task import Item, Scored, TaskSpec, sample
from nexus.evaluation.tasks.wordings import wording_of

Metric = Literal["accuracy", "accuracy_norm"]


class Choice(TaskSpec):
    """Rows with `question`, `choices` and `label`, the number of the right choice from 0.

    `accuracy` counts how often the right choice has the highest log-probability, `accuracy_norm`
    how often it has the highest per character of the choice: short choices are likely because they
    are short. Both are what lm-evaluation-harness calls `acc` and `acc_norm`.
    """

    kind: Literal["choice"] = "choice"
    path: str
    prompt: str | None = None
    """What is put before the choice, with `{column}`s of the row in it. Else the usual words for a
    task of this name, or those of ARC."""
    delimiter: str = " "
    """Between prompt and choice."""
    metric: Metric | None = None
    """What comparisons are about. Else what is usual for a task of this name, or `accuracy`."""

    @property
    def headline(self) -> str:
        return self.metric or wording_of(self.name).metric

    @property
    def wording(self) -> Mapping[str, Any]:
        return {"delimiter": self.delimiter}

    def items(self, folder: Path) -> Sequence[Item]:
        return sample(read_items(read_rows(self.path, folder), self._item), self.limit)

    def chance(self, items: Sequence[Item]) -> float:
        return float(np.mean([1 / len(item.answers) for item in items]))

    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        groups = [
            [Request(item.prompt, self.delimiter + choice) for choice in item.answers]
            for item in items
        ]
        for found in likelihoods(model, tokenizer, groups):
            yield {items[at].key: _scored(items[at], said) for at, said in found.items()}

    def _item(self, row: Row) -> Item:
        prompt = self.prompt if self.prompt is not None else wording_of(self.name).prompt
        choices = texts(row, "choices", fewest=2)
        right = label(row, "label", len(choices), "choices")
        return Item(key(row), render(prompt, row), choices, right)


def _scored(item: Item, said: Sequence[Likelihood]) -> Scored:
    sums = np.array([each.log_probability for each in said])
    # Of the choice itself: a delimiter is no part of what is chosen.
    lengths = np.array([len(choice) for choice in item.answers])
    return Scored(
        {
            "accuracy": float(sums.argmax() == item.label),
            "accuracy_norm": float((sums / lengths).argmax() == item.label),
        },
        said={"log_probabilities": sums.tolist()},
    )
