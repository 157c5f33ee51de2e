from __future__ import annotations

from nexus.report.fidelity import calibration_note, exposure, gaps, heldout_rows, sureness
from nexus.results import Bin, Calibration, Estimate, Evaluation


def test_rows_are_those_that_were_measured(evaluation: Evaluation) -> None:
    assert evaluation.heldout is not None
    labels = [row.label for row in heldout_rows(evaluation.heldout)]
    assert labels[0] == "KL(teacher ‖ student)" and labels[-1] == "Calibration error"
    bare = evaluation.heldout.trained.model_copy(
        update={"acceptance": None, "entropy": None, "calibration": None}
    )
    alone = evaluation.heldout.model_copy(
        update={"teacher": None, "untrained": None, "trained": bare, "perplexity_ratio": {}}
    )
    labels = [row.label for row in heldout_rows(alone)]
    assert "Entropy" not in labels and "Perplexity, over the teacher's" not in labels
    assert calibration_note(alone) == ""


def test_a_refused_gap_keeps_its_reason(evaluation: Evaluation) -> None:
    found = {gap.label: gap for gap in gaps(evaluation)}
    assert found["KL(teacher ‖ student)"].cell.value.startswith("88.1")
    assert found["Loss on the text"].share is None
    assert "as good as the teacher" in found["Loss on the text"].reason


def test_its_own_text_stands_beside_the_held_out(evaluation: Evaluation) -> None:
    assert evaluation.rollouts is not None
    first = exposure(evaluation.rollouts, evaluation.heldout)[0]
    assert (first.heldout.value, first.own.value, first.gap.value) == ("0.668", "0.750", "+0.0820")


def test_sureness_is_confidence_less_accuracy() -> None:
    bins = (
        Bin(confidence=0.9, accuracy=0.5, share=0.25),
        Bin(confidence=0.4, accuracy=0.6, share=0.75),
    )
    error = Calibration(ece=Estimate(value=0.25, n=9), uncorrected=0.25, bias=0.0, bins=bins)
    assert abs(sureness(error) - (0.25 * 0.4 - 0.75 * 0.2)) < 1e-12
