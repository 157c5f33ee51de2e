from __future__ import annotations

import numpy as np
import pytest

from nexus.errors import NexusError
from nexus.evaluation.fidelity import Fidelity, layout
from nexus.evaluation.heldout import heldout
from nexus.results import Estimate, Refused


def fidelity(
    kl: float, student_nll: float, teacher_nll: float = 2.0, documents: int = 20, seed: int = 0
) -> Fidelity:
    random = np.random.default_rng(seed)
    rows = np.zeros(documents, dtype=layout(4))
    rows["key"] = [f"{number:04}" for number in range(documents)]
    tokens = random.integers(20, 40, size=documents)
    rows["tokens"], rows["bytes"] = tokens, 4 * tokens
    hardness = random.normal(scale=0.1, size=documents)
    for name, level in (
        ("forward_kl", kl),
        ("reverse_kl", kl),
        ("student_nll", student_nll),
        ("teacher_nll", teacher_nll),
    ):
        rows[name] = (level + hardness) * tokens
    rows["agreement"] = rows["acceptance"] = 0.5 * tokens
    rows["student_bins"][:, 7, 0] = rows["teacher_bins"][:, 7, 0] = tokens
    return Fidelity(rows)


def test_what_training_was_worth() -> None:
    found = heldout(fidelity(0.5, 2.3), fidelity(5.0, 6.0))
    assert (found.documents, found.tokens) == (20, fidelity(0.5, 2.3).tokens)
    assert found.bytes == 4 * found.tokens
    gaps = found.gap_closed
    assert set(gaps) == {"forward_kl", "reverse_kl", "nll", "acceptance"}
    forward, loss = gaps["forward_kl"], gaps["nll"]
    assert isinstance(forward, Estimate) and isinstance(loss, Estimate)
    assert forward.value == pytest.approx(0.9, abs=0.01)
    assert loss.value == pytest.approx((6.0 - 2.3) / (6.0 - 2.0))
    assert found.change["forward_kl"].value == pytest.approx(-4.5)
    assert found.change["forward_kl"].high == pytest.approx(-4.5)
    assert found.perplexity_ratio["trained"].value == pytest.approx(np.exp(0.3))
    assert found.perplexity_ratio["untrained"].value == pytest.approx(np.exp(4.0))
    assert found.teacher.forward_kl is None and found.untrained is not None


def test_the_trained_student_alone() -> None:
    found = heldout(fidelity(0.5, 2.3))
    assert found.untrained is None
    assert found.gap_closed == found.change == {}
    assert set(found.perplexity_ratio) == {"trained"}


def test_a_gap_that_is_not_there_is_refused() -> None:
    found = heldout(fidelity(0.5, 1.8), fidelity(5.0, 1.9))
    assert isinstance(found.gap_closed["nll"], Refused)
    assert isinstance(found.gap_closed["forward_kl"], Estimate)


def test_different_documents_are_not_compared() -> None:
    with pytest.raises(NexusError, match="measured on 19 documents"):
        heldout(fidelity(0.5, 2.3), fidelity(5.0, 6.0, documents=19))
    with pytest.raises(NexusError, match="not the same"):
        heldout(fidelity(0.5, 2.3), fidelity(5.0, 6.0, seed=1))
