"""Answers: how one model did on every item of a task, in a form that can be paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


@dataclass(frozen=True)
class Answers:
    """Item by item, in the order of the task; the same task gives the same keys in this order."""

    keys: tuple[str, ...]
    scores: dict[str, Float[ndarray, " n"]]
    """By metric, higher is better: 0 or 1 for right and wrong."""
    answered: Bool[ndarray, " n"]
    """Whether anything of the asked form was found. What was not is wrong, and counted apart."""
    clusters: tuple[str, ...] | None = None
    """What each item belongs to, where several share a source (a passage with its questions): they
    are drawn together, as they are right or wrong together (arXiv:2411.00640)."""

    def __post_init__(self) -> None:
        lengths = {
            len(self.keys),
            len(self.answered),
            *(len(each) for each in self.scores.values()),
            len(self.keys if self.clusters is None else self.clusters),
        }
        if len(lengths) != 1 or len(set(self.keys)) < len(self.keys):
            raise ValueError(f"answers need one row and one key an item, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def unanswered(self) -> int:
        return int(np.count_nonzero(~self.answered))
