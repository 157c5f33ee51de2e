"""How a measured number becomes a proof."""

from __future__ import annotations

from nexus.proofs import Outcome, Proof

HARDEST = 1e30
"""Stands for an infinite or undefined number, which JSON does not know."""


def at_most(
    group: str,
    name: str,
    value: float,
    limit: float,
    detail: str,
    remedy: str,
    *,
    hard: bool = True,
) -> Proof:
    """Proved if `value` is a number of at most `limit`; else failed, or doubtful if not `hard`.

    Args:
        group: what it is about: `teacher`, `tokens`, `loss`.
        name: what holds if it is proved, as a sentence.
        value: what was measured. NaN is never proved.
        limit: how large it may be.
        detail: what was measured, in words.
        remedy: what to do if it does not hold, in one sentence.
        hard: whether it stops a run.
    """
    holds = value <= limit
    return Proof(
        group=group,
        name=name,
        outcome=_outcome(holds, hard),
        detail=f"{detail}: {value:.2g}, where at most {limit:.2g} is rounding",
        value=value if abs(value) < HARDEST else HARDEST,
        limit=limit,
        remedy="" if holds else remedy,
    )


def holds(
    group: str, name: str, true: bool, detail: str, remedy: str, *, hard: bool = True
) -> Proof:
    """Proved if `true`; else failed, or doubtful if not `hard`."""
    return Proof(
        group=group,
        name=name,
        outcome=_outcome(true, hard),
        detail=detail,
        remedy="" if true else remedy,
    )


def untried(group: str, name: str, why: str) -> Proof:
    """What could not be tried, and why."""
    return Proof(group=group, name=name, outcome="skipped", detail=why)


def _outcome(true: bool, hard: bool) -> Outcome:
    return "proved" if true else "failed" if hard else "doubtful"
