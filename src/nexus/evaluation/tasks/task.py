"""Tasks: questions with known answers, put to a model in fixed words."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from jaxtyping import Float
from numpy import ndarray
from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.spec import Spec

_SPLIT = re.compile(r"(train|dev|valid|validation|val|test)(_\w+)?")


@dataclass(frozen=True)
class Item:
    """One question in the words in which it is put, and what counts as right."""

    key: str
    """The row's `id`: what answers of several models are paired by."""
    prompt: str
    answers: tuple[str, ...]
    """The choices, the one target, or the accepted answers."""
    label: int = 0
    """Which of the answers is right, where they are choices."""

    @property
    def fingerprint(self) -> str:
        return _hash([self.key, self.prompt, list(self.answers), self.label])


@dataclass(frozen=True)
class Scored:
    """How a model did on one item."""

    scores: Mapping[str, float]
    """By metric, higher is better."""
    answered: bool = True
    """Whether anything of the asked form was found."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the scores were computed from, as JSON."""


class TaskSpec(Spec, ABC):
    """A task of a recipe. Every kind is a final subclass in a file of its own, with a `kind`."""

    name: str = ""
    """What the report calls it; else its file is called so, or the folder of a `dev.jsonl`."""
    limit: int | None = Field(default=None, ge=1)
    """How many items to put. Which ones is decided by their ids alone, so that they are spread over
    the file, the same for every model, and all among those of a larger limit."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("name"):
            return values
        path = values.get("path")
        return {**values, "name": name_of(path)} if isinstance(path, str) else values

    @property
    @abstractmethod
    def headline(self) -> str:
        """Which of the metrics comparisons are about."""

    @property
    @abstractmethod
    def wording(self) -> Mapping[str, Any]:
        """All that decides, beside items and model, what comes out: part of the fingerprint."""

    @abstractmethod
    def items(self, folder: Path) -> Sequence[Item]:
        """The items, at most `limit` of them, in the order of the file.

        Args:
            folder: what relative paths are relative to.

        Raises:
            UsageError: a row cannot be used, or there is none. Names file, line and remedy.
        """

    @abstractmethod
    def chance(self, items: Sequence[Item]) -> float:
        """What guessing scores by the headline metric."""

    def jointly(
        self, items: Sequence[Item], scored: Sequence[Scored]
    ) -> Mapping[str, Float[ndarray, " n"]]:
        """Metrics that only all items together have, as values by item whose mean is the metric."""
        return {}

    @abstractmethod
    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        """Put the items to a model, in whatever order is fast.

        The model is in eval mode and computes no gradient while this runs.

        Yields:
            By key, what has been scored since the last time. Each is kept as soon as it comes.
        """


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before any model is asked."""

    kind: str
    metric: str
    chance: float
    fingerprint: str
    """Of the items and of how they are put to a model: equal ones can be paired."""
    items: int


def sample(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """The `limit` items whose keys have the smallest hashes, in the order they had."""
    if limit is None or limit >= len(items):
        return items
    chosen = set(sorted((item.key for item in items), key=_hash)[:limit])
    return [item for item in items if item.key in chosen]


def fingerprint(task: TaskSpec, items: Sequence[Item]) -> str:
    """Of the items and of how they are put to a model."""
    return _hash([wording_fingerprint(task), *(item.fingerprint for item in items)])


def wording_fingerprint(task: TaskSpec) -> str:
    return _hash([type(task).__name__, dict(task.wording)])


def name_of(path: str) -> str:
    """What a file is called: `arc_easy` of `arc_easy.jsonl` and of `arc_easy/dev.jsonl`."""
    pure = PurePath(path)
    stem = pure.name.removesuffix(".jsonl")
    return pure.parent.name if _SPLIT.fullmatch(stem) and pure.parent.name else stem


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
