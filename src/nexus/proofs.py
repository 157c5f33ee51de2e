"""check.json: what was proved on the user's own models and data before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nexus import durable
from nexus.errors import UsageError
from nexus.redaction import redacted
from nexus.spec import Spec

FILE_NAME = "check.json"

Outcome = Literal["proved", "failed", "doubtful", "skipped"]
"""`failed` stops a run, `doubtful` is said; `skipped` could not be tried, and says why."""


class Proof(Spec):
    """One thing that was tried, with the number that decided."""

    group: str
    """What it is about: `fit`, `teacher`, `tokens`, `data`, `loss`."""
    name: str
    """What holds if it is proved, as a sentence: 'padding changes neither loss nor gradient'."""
    outcome: Outcome
    detail: str = ""
    """What was measured against which limit, in words."""
    value: float | None = None
    limit: float | None = None
    remedy: str = ""
    """What to do about it; empty when proved."""


def told(
    group: str,
    name: str,
    outcome: Outcome,
    detail: str,
    remedy: str = "",
    value: float | None = None,
    limit: float | None = None,
) -> Proof:
    """A proof whose remedy is said only where it was not proved."""
    return Proof(
        group=group, name=name, outcome=outcome, detail=detail, value=value, limit=limit,
        remedy="" if outcome == "proved" else remedy,
    )  # fmt: skip


class CutRecord(Spec):
    """How a student was cut out of a larger one, and what was proved of it."""

    stage: str = ""
    """That begins with it; nothing for the student that the run begins with."""
    target: dict[str, Any] | None = None
    """Of which budget, wanted and taken."""
    search: dict[str, Any] | None = None
    """The candidates, their divergences by rung, and how stable their order was."""
    proofs: tuple[Proof, ...] = ()


class Check(Spec):
    """All that was tried, in its order, and how long it took."""

    proofs: tuple[Proof, ...]
    seconds: float
    complete: bool = False
    """Whether everything was tried, and not only the cheap part that every run begins with."""

    @property
    def failures(self) -> Sequence[Proof]:
        return [proof for proof in self.proofs if proof.outcome == "failed"]

    def save(self, run: Path) -> Path:
        """Write check.json into the run directory: the whole file or none of it."""
        path = run / FILE_NAME
        durable.write(path, redacted(self.model_dump_json(indent=2)) + "\n")
        return path

    @classmethod
    def load(cls, run: Path) -> Check | None:
        """What the run directory holds, or nothing when nothing was checked.

        Raises:
            UsageError: if the file is damaged.
        """
        path = run / FILE_NAME
        if not path.exists():
            return None
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON ({error}). Delete it and check again.") from None
        return cls.parse(values, where=str(path))
