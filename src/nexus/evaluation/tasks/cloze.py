"""Cloze: whether the model would write the missing end of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.data.sources import Row
from nexus.evaluation.tasks.encoding import Request
from nexus.evaluation.tasks.likelihood import Likelihood, likelihoods
from nexus.evaluation.tasks.reading import key, read_items, read_rows, text
from nexus.evaluation.tasks.task import Item, Scored, TaskSpec, sample


class Cloze(TaskSpec):
    """Rows with `context` and `target`, the words that come next, as in LAMBADA.

    `accuracy` counts how often greedy decoding writes the target. `log_probability` is that of the
    whole target in nats; exp of minus its mean is the perplexity that lm-evaluation-harness gives
    (arXiv:1606.06031).
    """

    kind: Literal["cloze"] = "cloze"
    path: str
    delimiter: str = " "
    """Between context and target."""

    @property
    def headline(self) -> str:
        return "accuracy"

    @property
    def wording(self) -> Mapping[str, Any]:
        return {"delimiter": self.delimiter}

    def items(self, folder: Path) -> Sequence[Item]:
        return sample(read_items(read_rows(self.path, folder), _item), self.limit)

    def chance(self, items: Sequence[Item]) -> float:
        return 0.0

    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        groups = [[Request(item.prompt, self.delimiter + item.answers[0])] for item in items]
        for found in likelihoods(model, tokenizer, groups):
            yield {items[at].key: _scored(said[0]) for at, said in found.items()}


def _item(row: Row) -> Item:
    return Item(key(row), text(row, "context"), (text(row, "target"),))


def _scored(said: Likelihood) -> Scored:
    return Scored(
        {"accuracy": float(said.greedy), "log_probability": said.log_probability},
        said={"tokens": said.tokens, "bytes": said.bytes},
    )
