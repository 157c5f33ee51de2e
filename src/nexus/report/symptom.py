"""Symptom: something about a run that its owner can do something about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nexus.report.reading import RunFiles


@dataclass(frozen=True)
class Symptom:
    """What is seen, by which numbers, why that may be, and what to try."""

    weight: Literal["serious", "notable"]
    """Serious ones put the student in doubt, notable ones say where there is more to gain."""
    what: str
    evidence: str
    """The numbers that decided."""
    cause: str
    remedy: str

    @property
    def sign(self) -> str:
        return "!" if self.weight == "serious" else "→"


Rule = Callable[[RunFiles], Symptom | None]
"""Looks at a run, and says something or nothing."""
