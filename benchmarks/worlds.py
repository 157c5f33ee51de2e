"""Data sets drawn from worlds whose truth is known: documents with losses, items with answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy import ndarray

from nexus.evaluation.calibration import BINS, SUMMED, binned
from nexus.evaluation.retention import Totals


@dataclass(frozen=True)
class Documents:
    """Held-out documents: lengths lognormal, a level of its own for each, and noise by token.

    Hard documents are hard for all models, long ones are a little easier, and levels are skewed.
    """

    n: int
    unequal: float = 0.8
    """Standard deviation of the logarithm of the lengths: 0.8 is a file of mixed texts."""

    def draw(self, random: np.random.Generator) -> dict[str, ndarray]:
        n = self.n
        tokens = np.ceil(np.exp(random.normal(5.0, self.unequal, n))) + 5
        hard = (random.gamma(4.0, 1.0, n) - 4) / 2 * 0.5
        level = 2.6 + hard - 0.15 * (np.log(tokens) - 5)
        teacher = tokens * level + random.normal(0, 2, n) * np.sqrt(tokens)
        behind = np.maximum(0.0, 0.35 + 0.1 * hard + random.normal(0, 0.12, n))
        trained = teacher + tokens * behind + random.normal(0, 0.6, n) * np.sqrt(tokens)
        untrained = teacher + tokens * (2.5 + 0.5 * hard + random.normal(0, 0.5, n))
        divergence = tokens * np.exp(random.normal(-1.2, 0.35, n))
        return {
            "tokens": tokens,
            "bytes": tokens * np.exp(random.normal(1.4, 0.15, n)),
            "teacher": teacher,
            "trained": trained,
            "untrained": untrained,
            "divergence": divergence,
            "divergence untrained": divergence + tokens * np.exp(random.normal(0.8, 0.25, n)),
            "agreement": tokens / (1 + np.exp(hard - 0.8 + random.normal(0, 0.3, n))),
        }

    def expected(self) -> dict[str, float]:
        """Mean by document, over very many of them."""
        many = Documents(1_000_000, self.unequal).draw(np.random.default_rng(12345))
        return {name: float(values.mean()) for name, values in many.items()}

    def __str__(self) -> str:
        return f"{self.n} documents, lengths ±{100 * (np.exp(self.unequal) - 1):.0f} %"


@dataclass(frozen=True)
class Items:
    """Items of a task: each has a difficulty, which all models feel alike, and a model's own luck.

    `together` items share a passage, and with it half of what makes them hard.
    """

    n: int
    teacher: float
    trained: float
    untrained: float
    alike: float = 0.6
    """The correlation of two models' luck."""
    together: int = 1

    def draw(self, random: np.random.Generator) -> dict[str, ndarray]:
        passages = random.normal(size=-(-self.n // self.together)).repeat(self.together)[: self.n]
        own = random.normal(size=self.n)
        shared = own if self.together == 1 else (passages + own) / np.sqrt(2)
        return {
            name: (
                np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * random.normal(size=self.n)
                < _quantile(share)
            ).astype(float)
            for name, share in self.shares.items()
        }

    @property
    def shares(self) -> dict[str, float]:
        return {"teacher": self.teacher, "trained": self.trained, "untrained": self.untrained}

    @property
    def clusters(self) -> tuple[str, ...] | None:
        if self.together == 1:
            return None
        return tuple(str(item // self.together) for item in range(self.n))

    def __str__(self) -> str:
        shares = "/".join(f"{share:g}" for share in self.shares.values())
        passages = f", {self.together} a passage" if self.together > 1 else ""
        return f"{self.n} items{passages}, {shares} right"


@dataclass(frozen=True)
class Confidences:
    """Documents whose tokens have a confidence, and are right a little less often than it says.

    Confidence c has the logit N(0, 1.5²) and a level by document; right are
    c - `over` (c - `turn`), and all of a document's tokens more or less often than that.
    """

    n: int
    over: float
    """How far confidence is off, as a share of it."""
    turn: float = 0.0
    """At this confidence it is right: too low below, too high above it."""
    off: float = 0.04
    """Standard deviation of a document's own miscalibration."""
    unequal: float = 0.8
    """As of `Documents`. At 0 all have `length` tokens."""
    length: int = 100

    def draw(self, random: np.random.Generator) -> dict[str, ndarray]:
        lengths = [self._length(random) for _ in range(self.n)]
        return {"sums": np.stack([self._document(random, length) for length in lengths])}

    def _length(self, random: np.random.Generator) -> int:
        if not self.unequal:
            return self.length
        return int(np.exp(random.normal(5.0, self.unequal))) + 5

    def _document(self, random: np.random.Generator, length: int) -> ndarray:
        logits = random.normal(0, 1.5, length) + random.normal(0, 0.5)
        confidence = 0.03 + 0.95 / (1 + np.exp(-logits))
        right = confidence - self.over * (confidence - self.turn) + random.normal(0, self.off)
        return binned(confidence, (random.random(length) < right.clip(0, 1)).astype(float))

    def error(self) -> float:
        """The calibration error, over very many documents."""
        random, sums = np.random.default_rng(12345), np.zeros((BINS, len(SUMMED)))
        for _ in range(30_000):
            sums += self._document(random, self._length(random))
        return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / sums[:, 0].sum())

    def __str__(self) -> str:
        lengths = f"lengths ±{100 * (np.exp(self.unequal) - 1):.0f} %"
        where = f"above {self.turn:g}" if self.turn else "everywhere"
        how = f"{100 * self.over:g} % too confident {where}" if self.over else "calibrated"
        together = f", documents ±{100 * self.off:g} %" if self.off else ""
        shape = lengths if self.unequal else f"{self.length} tokens each"
        return f"{self.n} documents, {shape}, {how}{together}"


World = Documents | Items | Confidences


def draws(world: World, count: int, seed: int) -> Iterator[dict[str, ndarray]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield world.draw(random)


def per_token(drawn: dict[str, ndarray], name: str) -> Totals:
    return Totals(drawn[name], drawn["tokens"])


def _quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)
