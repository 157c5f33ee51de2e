"""What `nexus evaluate --compare` says of two models that were measured on the same things."""

from __future__ import annotations

from typing import Literal

from nexus.results import Estimate, Subject
from nexus.spec import Spec


class Contrast(Spec):
    """One measure of two models, paired by document or by item."""

    measure: str
    higher_is_better: bool
    first: Estimate
    second: Estimate
    difference: Estimate
    """The first one's minus the second one's."""
    p_value: float
    """McNemar's exact test for items; for sums over documents, signs flipped at random."""
    adjusted_p_value: float
    """Holm's, over all measures that were compared."""
    detectable: float | None
    """The smallest difference that would have been found in four of five such comparisons; nothing
    where a single document leaves that open."""
    verdict: Literal["first", "second", "none detected"]
    """Which model is better."""


class Contrasts(Spec):
    """What `nexus evaluate --compare` says of two models."""

    first: Subject
    second: Subject
    rows: tuple[Contrast, ...]
    left_out: tuple[str, ...] = ()
    """What could not be compared, and why."""
