"""What is left of the teacher on held-out text, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nexus.report.words import ABSENT, Cell, cell, count, signed
from nexus.results import Calibration, Estimate, Evaluation, Heldout, Quality, Refused, Rollouts

GAPS = {
    "forward_kl": "KL(teacher ‖ student)",
    "reverse_kl": "KL(student ‖ teacher)",
    "nll": "Loss on the text",
}

CLOSENESS, SKILL, CERTAINTY = "Closeness to the teacher", "Skill at the text", "Certainty"

Score = Callable[[Quality], Estimate | None]

DIVERGENCES: tuple[tuple[str, str, str], ...] = (
    ("forward_kl", "KL(teacher ‖ student)", "nats a token, T = 1; 0 is a copy"),
    ("reverse_kl", "KL(student ‖ teacher)", "nats a token, T = 1; 0 is a copy"),
    ("acceptance", "Acceptance, Σ min(p, q)", "of a speculative draft; higher is better"),
    ("agreement", "Top-1 agreement", "same most likely token; higher is better"),
)


@dataclass(frozen=True)
class Row:
    """One measure of the comparison."""

    label: str
    note: str
    teacher: Cell
    untrained: Cell
    trained: Cell
    group: str = ""

    @property
    def is_empty(self) -> bool:
        return all(one == Cell() for one in (self.teacher, self.untrained, self.trained))


@dataclass(frozen=True)
class Gap:
    """How much of a gap training closed, or why that cannot be said."""

    label: str
    share: Estimate | None
    reason: str

    @property
    def cell(self) -> Cell:
        return cell(self.share)


@dataclass(frozen=True)
class Exposure:
    """One measure on held-out text and on what the student itself wrote."""

    label: str
    heldout: Cell
    own: Cell
    gap: Cell


def heldout_rows(heldout: Heldout) -> list[Row]:
    """Every measure of the three models that was taken of any of them."""

    def row(group: str, label: str, note: str, score: Score) -> Row:
        models = (heldout.teacher, heldout.untrained, heldout.trained)
        teacher, untrained, trained = (Cell() if of is None else cell(score(of)) for of in models)
        return Row(label, note, teacher, untrained, trained, group)

    ratio = heldout.perplexity_ratio
    rows = [row(CLOSENESS, label, note, _named(name)) for name, label, note in DIVERGENCES]
    rows += [
        row(SKILL, "Loss (NLL)", "nats a token; lower is better", lambda of: of.nll),
        row(SKILL, "Perplexity", "lower is better", lambda of: of.perplexity),
        Row(
            "Perplexity, over the teacher's",
            "1 is as good",
            Cell("1×") if ratio and heldout.teacher else Cell(),
            cell(ratio.get("untrained")),
            cell(ratio.get("trained")),
            SKILL,
        ),
        row(SKILL, "Bits per byte", "lower is better", lambda of: of.bits_per_byte),
        row(CERTAINTY, "Entropy", "nats a token; near the teacher's is right", _entropy),
        row(CERTAINTY, "Calibration error", "ECE less its bias; 0 is right", _ece),
    ]
    return [row for row in rows if not row.is_empty]


def gaps(evaluation: Evaluation) -> list[Gap]:
    """The share of the way from the untrained student to the teacher that training covered."""
    if evaluation.heldout is None:
        return []
    return [
        Gap(label, None, found.reason) if isinstance(found, Refused) else Gap(label, found, "")
        for name, label in GAPS.items()
        if (found := evaluation.heldout.gap_closed.get(name)) is not None
    ]


def exposure(rollouts: Rollouts, heldout: Heldout | None) -> list[Exposure]:
    """How much less the student follows its teacher on text of its own."""
    found = []
    for name, label, _ in DIVERGENCES:
        own = _named(name)(rollouts.trained)
        there = _named(name)(heldout.trained) if heldout else None
        if own is not None:
            gap = rollouts.exposure_gap.get(name)
            shown = signed(gap) if gap else Cell()
            found.append(Exposure(label, cell(there), cell(own), shown))
    return found


def calibration_note(heldout: Heldout) -> str:
    """What the calibration errors were before their correction."""
    models = (
        ("teacher", heldout.teacher),
        ("untrained", heldout.untrained),
        ("trained", heldout.trained),
    )
    parts = [
        f"{name} {_percent(found.uncorrected)} of which {_percent(found.bias)} is bias"
        for name, quality in models
        if quality is not None and (found := quality.calibration) is not None
    ]
    if not parts:
        return ""
    return (
        f"Calibration error before correction: {'; '.join(parts)}. The bias is what a perfectly "
        "calibrated model would score on as many tokens; it shrinks with their number."
    )


def measured_on(heldout: Heldout) -> str:
    """12 held-out documents with 3,400 target tokens (15,000 bytes)."""
    said = f"{count(heldout.documents)} held-out documents with {count(heldout.tokens)} target"
    said += " tokens"
    return f"{said} ({count(heldout.bytes)} bytes)" if heldout.bytes else said


def sureness(calibration: Calibration) -> float:
    """Mean confidence minus accuracy over all positions: above 0 is over-confident."""
    return sum(bin.share * (bin.confidence - bin.accuracy) for bin in calibration.bins)


def _named(name: str) -> Score:
    scores: dict[str, Score] = {
        "forward_kl": lambda of: of.forward_kl,
        "reverse_kl": lambda of: of.reverse_kl,
        "acceptance": lambda of: of.acceptance,
        "agreement": lambda of: of.agreement,
    }
    return scores[name]


def _entropy(quality: Quality) -> Estimate | None:
    return quality.entropy


def _ece(quality: Quality) -> Estimate | None:
    return quality.calibration.ece if quality.calibration else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%" if share == share else ABSENT
