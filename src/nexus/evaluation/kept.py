"""Kept: what was measured of one model, on disk, so that nothing is ever measured twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nexus import durable
from nexus.durable import Damaged
from nexus.evaluation.answers import Answers
from nexus.evaluation.fidelity import Fidelity
from nexus.voice import Say

_DIGITS = 12
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Kept:
    """A folder of sums by document and of answers by item; without one, nothing is kept.

    What is in it is named by the fingerprint of what it was measured on. The folder itself is one
    model's, which is for its owner to see to.
    """

    folder: Path | None
    say: Say = lambda text: None
    """Told of what was damaged, and is measured anew."""

    def fidelity(self, text: str, measure: Callable[[], Fidelity]) -> Fidelity:
        """The sums over a text with this fingerprint, measured if they are not there."""
        if (known := self.known_fidelity(text)) is not None:
            return known
        measured = measure()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            measured.save(self.folder / _name("text", text, "npy"))
        return measured

    def known_fidelity(self, text: str) -> Fidelity | None:
        """The sums over a text with this fingerprint, if they are there."""
        if self.folder is None:
            return None
        file = self.folder / _name("text", text, "npy")
        if not file.exists():
            return None
        try:
            return Fidelity.load(file)
        except Damaged as damage:
            self.say(f"{damage}. It is measured again")
            return None

    def answers(
        self, task: str, fingerprint: str, ask: Callable[[Path | None], Answers]
    ) -> Answers:
        """The answers to a task with this fingerprint; whoever is asked is told of a ledger.

        Args:
            task: its name.
            fingerprint: of its items and of how they are put.
            ask: given where items may be noted one by one, so that asking can be gone on with.
        """
        if (known := self.known_answers(task, fingerprint)) is not None:
            return known
        if self.folder is None:
            return ask(None)
        self.folder.mkdir(parents=True, exist_ok=True)
        found = ask(self.folder / _name(task, fingerprint, "jsonl"))
        durable.write(self.folder / _name(task, fingerprint, "json"), _dumped(found))
        return found

    def known_answers(self, task: str, fingerprint: str) -> Answers | None:
        """The answers to a task with this fingerprint, if all of them are there."""
        if self.folder is None:
            return None
        file = self.folder / _name(task, fingerprint, "json")
        if not file.exists():
            return None
        try:
            return _loaded(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.say(f"{file} is damaged ({error}). The task is put again")
            return None


def folder_of(output: Path, fingerprint: str) -> Path:
    """The folder of the model with this fingerprint."""
    return output / fingerprint[:_DIGITS]


def _name(what: str, fingerprint: str, suffix: str) -> str:
    return f"{_NOT_IN_NAMES.sub('_', what)}-{fingerprint[:_DIGITS]}.{suffix}"


def _dumped(answers: Answers) -> str:
    return json.dumps(
        {
            "keys": answers.keys,
            "scores": {name: values.tolist() for name, values in answers.scores.items()},
            "answered": answers.answered.tolist(),
            "clusters": answers.clusters,
        }
    )


def _loaded(values: dict[str, Any]) -> Answers:
    clusters = values["clusters"]
    return Answers(
        keys=tuple(map(str, values["keys"])),
        scores={
            str(name): np.array(each, dtype=np.float64) for name, each in values["scores"].items()
        },
        answered=np.array(values["answered"], dtype=bool),
        clusters=None if clusters is None else tuple(map(str, clusters)),
    )
