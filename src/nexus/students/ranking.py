"""Ranking: which of a few shapes is the best student, told by distilling each a little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from transformers import PreTrainedModel

from nexus import durable, fingerprint
from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning.importance import Scores
from nexus.pruning.layer_choice import LayerChoice
from nexus.pruning.progress import Notebook
from nexus.pruning.prune import carve
from nexus.pruning.sizes import Sizes
from nexus.spec import Spec
from nexus.students.trial import Carved, Steps, Trial, divergence, spoken
from nexus.voice import Say

FILE_NAME = "ranking.json"

SHORTLISTED = 2
"""Shapes that are cut and compared for each that is distilled."""


class Search(Spec):
    """How candidates for a target are told apart: at once, then by short distillation.

    Twice as many shapes are cut and compared at once, and the best of them are the candidates.
    Successive halving (arXiv:1502.07943): every rung trains as many tokens, on half as many
    candidates, each of which goes on where it was.
    """

    candidates: Annotated[int, Field(ge=2, le=64)] = 8
    """How many shapes are distilled: the best, as cut, of twice as many."""
    zero_shot_tokens: Annotated[int, Field(ge=1)] = 4_096
    """How much text, of none that is trained on, they are compared on."""
    tokens: Annotated[int, Field(ge=1)] = 200_000
    """How many tokens are distilled in all, over all candidates."""
    tokens_per_step: Annotated[int, Field(ge=1)] = 2_048
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Constant, after ten steps of warm-up."""

    @property
    def shortlisted(self) -> int:
        """How many shapes are cut and compared without any training."""
        return SHORTLISTED * self.candidates

    @property
    def survivors(self) -> tuple[int, ...]:
        """How many candidates each rung trains."""
        counts = [self.candidates]
        while counts[-1] > 2:
            counts.append(-(-counts[-1] // 2))
        return tuple(counts)

    @property
    def steps(self) -> tuple[int, ...]:
        """How many steps each rung trains each of its candidates for."""
        each = self.tokens / len(self.survivors)
        return tuple(max(1, int(each / n / self.tokens_per_step)) for n in self.survivors)

    @property
    def longest(self) -> int:
        """How many tokens the winner is trained on: as much text serves all."""
        return sum(self.steps) * self.tokens_per_step


@dataclass(frozen=True)
class Ranking:
    """What the search found, best first where it was decided."""

    candidates: tuple[Sizes, ...]
    tokens: tuple[int, ...]
    """How many each candidate had been trained on at each rung; none at the first."""
    divergences: tuple[dict[int, float], ...]
    """At each rung, KL(teacher || candidate) in nats a token, by the candidate's number."""

    @property
    def winner(self) -> int:
        """The candidate nearest to the teacher at the last rung."""
        last = self.divergences[-1]
        return min(last, key=lambda number: (last[number], number))

    def ranks(self, rung: int) -> dict[int, int]:
        """The places of a rung's candidates, from 1."""
        at = self.divergences[rung]
        return {number: place for place, number in enumerate(sorted(at, key=lambda n: at[n]), 1)}

    @property
    def stability(self) -> tuple[tuple[float | None, float | None], ...]:
        """Spearman's correlation of each rung's order with that of the next, and of the last.

        Over the candidates that both have; nothing where that is fewer than two.
        """
        last = len(self.divergences) - 1
        return tuple((self._agree(rung, rung + 1), self._agree(rung, last)) for rung in range(last))

    def _agree(self, one: int, other: int) -> float | None:
        shared = sorted(self.divergences[one].keys() & self.divergences[other].keys())
        if len(shared) < 2:
            return None
        places = [
            np.argsort(np.argsort([self.divergences[rung][n] for n in shared], kind="stable"))
            for rung in (one, other)
        ]
        return float(np.corrcoef(places[0], places[1])[0, 1])

    @property
    def facts(self) -> dict[str, Any]:
        """For a record."""
        return {
            "winner": self.winner,
            "candidates": [asdict(sizes) for sizes in self.candidates],
            "rungs": [
                {
                    "tokens": tokens,
                    "divergence": {str(n): value for n, value in self.divergences[rung].items()},
                    "rank": {str(n): place for n, place in self.ranks(rung).items()},
                }
                for rung, tokens in enumerate(self.tokens)
            ],
            "spearman": [{"next": after, "last": last} for after, last in self.stability],
        }


def rank(
    teacher: PreTrainedModel,
    scores: Scores,
    candidates: Sequence[Sizes],
    text: Sequence[Batch],
    search: Search,
    *,
    calibration: Sequence[Batch],
    folder: Path,
    settings: dict[str, Any],
    choice: LayerChoice | None = None,
    say: Say = lambda text: None,
) -> Ranking:
    """Tell candidates apart by what is left of the teacher, in nats a token of held-out text.

    The same batches in the same order for all, forward KL at T = 1. One candidate is in memory at
    a time beside the teacher; weights and moments of the others wait on disk. What was measured is
    kept in `folder`, and the same search started again goes on there. What is trained is thrown
    away in the end: a student begins as it was cut.

    Args:
        teacher: which they are cut out of.
        scores: its importance scores.
        candidates: their sizes; those nearest as cut are trained, `search.candidates` of them.
        text: first what they are compared on, then what they are distilled on, again and again if
            there is less than `search.longest`.
        search: how.
        calibration: what they are repaired on.
        folder: for this search alone.
        settings: how layers are told apart (`depth`), and how else `carve` cuts.
        choice: of layers, as far as it was made before.
        say: told in a sentence what begins.

    Raises:
        UsageError: There is too little text.
    """
    held, steps = _split(text, search)
    told = spoken(teacher, held)

    choice = choice or LayerChoice(teacher, calibration, scores, settings["depth"])
    how = {name: value for name, value in settings.items() if name != "depth"}
    carved = partial(_carved, choice, how)
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / f"candidate-{number:02d}" for number in range(len(candidates))]
    book = _Book(folder / FILE_NAME, _key(teacher, scores, candidates, text, search, settings))
    alive, found, done = list(range(len(candidates))), list[dict[int, float]](), [0]
    for rung, count in enumerate((0, *search.steps)):
        if rung:
            alive = _nearest(found[-1], search.survivors[rung - 1])
            _forget([places[number] for number in found[-1] if number not in alive])
            done.append(done[-1] + count)
        say(
            f"search: {len(alive)} candidates, "
            + (f"{count} steps of {search.tokens_per_step:,} tokens each" if rung else "as cut")
        )
        for number in alive:
            if not book.has(rung, number):
                trial = Trial(teacher, candidates[number], places[number])
                trial.resume(done[rung - 1] if rung else 0, carved)
                trial.train(steps, done[rung], search.learning_rate)
                value = divergence(trial.model, teacher, held, told)
                trial.keep()
                book.put(rung, number, value)
                del trial
            if not rung:  # the disk never holds more of those as cut than will be trained
                _forget([places[n] for n in book.crowded_out(alive, search.candidates)])
        found.append({number: book.at(rung, number) for number in alive})
    _forget(places)
    tokens = tuple(steps_ * search.tokens_per_step for steps_ in done)
    return Ranking(tuple(candidates), tokens, tuple(found))


def _nearest(divergences: dict[int, float], most: int) -> list[int]:
    """The candidates that are nearest to the teacher, in the order of their numbers."""
    return sorted(sorted(divergences, key=lambda one: (divergences[one], one))[:most])


def _carved(choice: LayerChoice, how: Mapping[str, Any], sizes: Sizes) -> Carved:
    """A candidate as it was cut, and the layers that it keeps."""
    layers, given = choice(sizes.layers), (choice.model, choice.batches, choice.scores)
    small, _ = carve(*given, sizes, layers, dtype=torch.float32, **how)
    return small, layers


class _Book:
    """What was measured of a search so far, on disk; of another search nothing is known."""

    def __init__(self, path: Path, key: str) -> None:
        self._notes = Notebook(path, key)
        self._known: dict[str, float] = self._notes.facts.get("measured", {})
        if not self._known:
            _forget(sorted(path.parent.glob("candidate-*")))

    def has(self, rung: int, number: int) -> bool:
        return f"{rung}.{number}" in self._known

    def at(self, rung: int, number: int) -> float:
        return self._known[f"{rung}.{number}"]

    def crowded_out(self, numbers: Sequence[int], most: int) -> set[int]:
        """Those of which so many others were nearer as cut, among what is measured."""
        known = {number: self.at(0, number) for number in numbers if self.has(0, number)}
        return known.keys() - set(_nearest(known, most))

    def put(self, rung: int, number: int, value: float) -> None:
        self._known[f"{rung}.{number}"] = value
        self._notes.keep(measured=self._known)


def _split(text: Sequence[Batch], search: Search) -> tuple[list[Batch], Steps]:
    """What candidates are compared on, and what they are distilled on, step by step."""
    counts = [int(batch.target_count) for batch in text]
    held = _until(counts, search.zero_shot_tokens)
    groups: list[list[Batch]] = []
    start = held
    while start < len(text):
        stop = start + _until(counts[start:], search.tokens_per_step)
        groups.append(list(text[start:stop]))
        start = stop
    if sum(counts[:held]) < search.zero_shot_tokens or not groups:
        raise UsageError(
            f"The search compares candidates on {search.zero_shot_tokens:,} tokens and distils "
            f"them on others, but beside the calibration there is text of {sum(counts):,} tokens. "
            f"Give more text, about {search.zero_shot_tokens + search.longest:,} tokens more"
        )
    return list(text[:held]), lambda step: groups[step % len(groups)]


def _until(counts: Sequence[int], wanted: int) -> int:
    """How many of the first hold together so much; all if even they do not."""
    held = 0
    for number, count in enumerate(counts, 1):
        held += count
        if held >= wanted:
            return number
    return len(counts)


def _key(
    teacher: PreTrainedModel,
    scores: Scores,
    candidates: Sequence[Sizes],
    text: Sequence[Batch],
    search: Search,
    settings: dict[str, Any],
) -> str:
    """Equal for searches that must find the same."""
    facts = {
        "teacher": fingerprint.of_model(teacher),
        "scores": scores.digest,
        "candidates": [asdict(sizes) for sizes in candidates],
        "text": fingerprint.of_text(text),
        "search": search.model_dump(),
        "settings": settings,
    }
    return fingerprint.of_facts(facts)


def _forget(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.exists():
            durable.remove(folder)
