"""What the runs of `minitron.py` came to, by size and arm, as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from results import goal, goals_table, table

from nexus.results import Estimate, Heldout

GOALS = {101e6: {"forward_kl": 0.42, "perplexity_ratio": 1.28}, 80e6: {"forward_kl": 0.58}}
"""What pruning and distilling is to reach, by target, on at most so many tokens."""

GOAL_TOKENS = 380_000


@dataclass(frozen=True)
class Arm:
    """Where a student comes from, and what it learns from."""

    begins: str
    learns: str

    @property
    def name(self) -> str:
        return f"{self.begins}-{self.learns}"

    @property
    def title(self) -> str:
        words = {"kd": "distilled", "ce": "cross-entropy", "random": "random weights"}
        return f"{words.get(self.begins, self.begins)}, {words[self.learns]}"


ARMS = tuple(Arm(begins, learns) for begins in ("pruned", "random") for learns in ("kd", "ce"))
NAMES = tuple(arm.name for arm in ARMS)


@dataclass(frozen=True)
class Run:
    """One student that was trained."""

    target: float
    arm: str
    seed: int
    tokens: int
    parameters: int
    minutes: float
    """Of training alone."""
    machine: str
    heldout: Heldout

    @property
    def place(self) -> tuple[float, int, int, int]:
        """Where it stands in the table."""
        return (-self.target, self.tokens, NAMES.index(self.arm), self.seed)

    def facts(self) -> dict[str, Any]:
        return {**vars(self), "heldout": self.heldout.model_dump()}

    @classmethod
    def of_facts(cls, facts: dict[str, Any], where: str) -> Run:
        return cls(**{**facts, "heldout": Heldout.parse(facts["heldout"], where)})


def with_earlier(runs: Sequence[Run], plan: dict[str, Any], file: Path) -> list[Run]:
    """The runs, and those of an earlier table of the same plan that are not among them."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    earlier = known["runs"] if known.get("plan") == plan else []
    every = {run.place: run for run in (Run.of_facts(each, str(file)) for each in earlier)}
    every |= {run.place: run for run in runs}
    return [every[place] for place in sorted(every)]


@dataclass(frozen=True)
class Row:
    """One arm at one size, all seeds."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def title(self) -> str:
        (arm,) = (arm for arm in ARMS if arm.name == self.first.arm)
        return f"{self.first.target / 1e6:.0f}M {arm.title}"

    def mean(self, measure: str) -> float:
        return statistics.mean(_estimate(run, measure).value for run in self.runs)

    def cell(self, measure: str, digits: int, scale: float = 1.0, model: str = "trained") -> str:
        """The mean over seeds, their range, and the first one's interval over documents."""
        found = [_estimate(run, measure, model) for run in self.runs]
        values = [scale * each.value for each in found]
        text = _spread(values, digits)
        if found[0].low is not None and found[0].high is not None:
            text += f" ({scale * found[0].low:.{digits}f}–{scale * found[0].high:.{digits}f})"
        return text

    @property
    def cells(self) -> list[str]:
        return [
            self.title, f"{self.first.parameters / 1e6:.1f}M", f"{self.first.tokens:,}",
            ", ".join(str(run.seed) for run in self.runs),
            _spread([run.minutes for run in self.runs], 1),
            self.cell("forward_kl", 2, model="untrained"), self.cell("forward_kl", 3),
            self.cell("agreement", 1, 100), self.cell("perplexity", 1),
            self.cell("perplexity_ratio", 2),
        ]  # fmt: skip


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean [smallest–largest]."""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" [{min(values):.{digits}f}–{max(values):.{digits}f}]"
    return text


def rows(runs: Iterable[Run]) -> Iterator[Row]:
    for _, some in groupby(runs, key=lambda run: run.place[:-1]):
        yield Row(tuple(some))


def goals(found: Iterable[Row]) -> list[dict[str, Any]]:
    """What was to be reached by students that were cut and distilled, on few enough tokens."""
    return [
        goal(f"{row.title}: {name.replace('_', ' ')}", row.mean(name), most=most)
        for row in found
        if row.first.arm == ARMS[0].name and row.first.tokens <= GOAL_TOKENS
        for name, most in GOALS.get(row.first.target, {}).items()
    ]


def described(runs: Sequence[Run]) -> str:
    """The table, on what it was measured, and what was to be reached."""
    heldout, found = runs[0].heldout, list(rows(runs))
    header = [
        "student", "parameters", "tokens", "seeds", "minutes", "KL at first", "KL to the teacher",
        "agreement, %", "perplexity", "over the teacher's",
    ]  # fmt: skip
    reached = goals(found)
    return "\n\n".join(
        [
            "# Pruned and distilled, or begun from nothing: equally many tokens",
            *dict.fromkeys(run.machine for run in runs),
            f"{heldout.documents} held-out documents, {heldout.tokens:,} tokens. Mean over seeds "
            "[range] (the first seed's 95 % interval over documents). Minutes are of training.",
            table(header, [row.cells for row in found]),
            *([f"On at most {GOAL_TOKENS:,} tokens:", goals_table(reached)] if reached else []),
        ]
    )


def _estimate(run: Run, measure: str, model: str = "trained") -> Estimate:
    if measure == "perplexity_ratio":
        return run.heldout.perplexity_ratio[model]
    found: Estimate = getattr(getattr(run.heldout, model), measure)
    return found
