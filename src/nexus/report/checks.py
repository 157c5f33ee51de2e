"""What was proved before training, the worst first."""

from __future__ import annotations

from dataclasses import dataclass

from nexus.proofs import Check, Outcome, Proof
from nexus.report.words import duration, plain

SIGNS: dict[Outcome, tuple[str, str]] = {
    "failed": ("✗", "failed"),
    "doubtful": ("?", "doubtful"),
    "skipped": ("–", "not tried"),
    "proved": ("✓", "proved"),
}
"""A sign and a word, since colour alone tells nothing; the worst first."""


@dataclass(frozen=True)
class ProofRow:
    """One proof, ready to be shown."""

    sign: str
    word: str
    outcome: Outcome
    group: str
    name: str
    measured: str
    remedy: str


@dataclass(frozen=True)
class ChecksView:
    """What needs a look, and the rest."""

    summary: str
    urgent: list[ProofRow]
    rest: list[ProofRow]


def checks_view(check: Check | None) -> ChecksView | None:
    """Failures and doubts apart from what holds; nothing if nothing was checked."""
    if check is None or not check.proofs:
        return None
    order = list(SIGNS)
    proofs = sorted(check.proofs, key=lambda proof: order.index(proof.outcome))
    rows = [proof_row(proof) for proof in proofs]
    counts = {word: sum(row.word == word for row in rows) for _, word in SIGNS.values()}
    said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    extent = "Everything was tried" if check.complete else "The cheap part, with which a run begins"
    return ChecksView(
        summary=f"{extent}, in {duration(check.seconds)}: {said}.",
        urgent=[row for row in rows if row.outcome in ("failed", "doubtful")],
        rest=[row for row in rows if row.outcome not in ("failed", "doubtful")],
    )


def proof_row(proof: Proof) -> ProofRow:
    """One proof, with what was measured as text."""
    sign, word = SIGNS[proof.outcome]
    measured = proof.detail
    if not measured and proof.value is not None:
        measured = _number(proof.value)
        if proof.limit is not None:
            measured += f", limit {_number(proof.limit)}"
    return ProofRow(sign, word, proof.outcome, proof.group, proof.name, measured, proof.remedy)


def _number(value: float) -> str:
    return f"{value:.1e}" if value and abs(value) < 1e-3 else plain(value)
