"""The held-out part of `evaluation.json`: teacher, untrained and trained student side by side."""

from __future__ import annotations

import numpy as np

from nexus.errors import NexusError
from nexus.evaluation.fidelity import Fidelity
from nexus.evaluation.retention import Totals, difference, gap_closed, perplexity_ratio
from nexus.results import Estimate, Heldout, Unit

MEASURES: dict[str, Unit] = {
    "forward_kl": "nats",
    "reverse_kl": "nats",
    "agreement": "share",
    "acceptance": "share",
    "student_nll": "nats",
    "student_entropy": "nats",
}


def heldout(trained: Fidelity, untrained: Fidelity | None = None, *, seed: int = 0) -> Heldout:
    """Scores of all, and what training changed, paired by document.

    Raises:
        NexusError: if the two students were measured on different documents.
    """
    ratios = {"trained": _perplexity_ratio(trained, seed)}
    summary = Heldout(
        documents=len(trained),
        tokens=trained.tokens,
        bytes=trained.bytes,
        teacher=trained.teacher(seed),
        trained=trained.student(seed),
        perplexity_ratio=ratios,
    )
    if untrained is None:
        return summary
    _same_documents(trained, untrained)
    nothing = Totals(np.zeros(len(trained)), trained.documents["tokens"])
    goals = {
        "forward_kl": nothing,
        "reverse_kl": nothing,
        "student_nll": trained.per_token("teacher_nll"),
    }
    return summary.model_copy(
        update={
            "untrained": untrained.student(seed),
            "gap_closed": {
                _plain(name): gap_closed(
                    untrained.per_token(name), trained.per_token(name), goal, seed=seed
                )
                for name, goal in goals.items()
            }
            | {
                "acceptance": gap_closed(
                    _rejected(untrained), _rejected(trained), nothing, seed=seed
                )
            },
            "change": changes(trained, untrained, seed=seed),
            "perplexity_ratio": ratios | {"untrained": _perplexity_ratio(untrained, seed)},
        }
    )


def changes(later: Fidelity, earlier: Fidelity, *, seed: int = 0) -> dict[str, Estimate]:
    """By measure, the later student minus the earlier one, paired by document.

    Raises:
        NexusError: if they were measured on different documents.
    """
    _same_documents(later, earlier)
    return {
        _plain(name): difference(
            later.per_token(name), earlier.per_token(name), unit=unit, seed=seed
        )
        for name, unit in MEASURES.items()
    }


def _perplexity_ratio(of: Fidelity, seed: int) -> Estimate:
    return perplexity_ratio(of.per_token("student_nll"), of.per_token("teacher_nll"), seed=seed)


def _rejected(of: Fidelity) -> Totals:
    """The total variation: what acceptance lacks of 1, the teacher's own."""
    accepted = of.per_token("acceptance")
    return Totals(accepted.count - accepted.total, accepted.count)


def _plain(column: str) -> str:
    return column.removeprefix("student_")


def _same_documents(trained: Fidelity, untrained: Fidelity) -> None:
    same = np.array_equal(trained.documents["key"], untrained.documents["key"]) and np.array_equal(
        trained.documents["tokens"], untrained.documents["tokens"]
    )
    if not same:
        raise NexusError(
            f"The untrained student was measured on {len(untrained)} documents "
            f"({untrained.tokens} tokens), the trained one on {len(trained)} ({trained.tokens}), "
            "and they are not the same. Measure both on the same held-out data."
        )
