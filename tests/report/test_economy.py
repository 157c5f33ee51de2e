from __future__ import annotations

from nexus.report.economy import size_rows, speed_note, speed_rows
from nexus.results import Evaluation


def test_ratios_are_the_students_over_the_teachers(evaluation: Evaluation) -> None:
    rows = {row.label: row for row in size_rows(evaluation)}
    assert rows["Parameters"].ratio.value.startswith("61")
    assert rows["FLOPs per token"].ratio.value.startswith("50")
    assert rows["Memory"].ratio.value.startswith("61")
    assert size_rows(Evaluation()) == []


def test_every_batch_size_has_its_speeds(evaluation: Evaluation) -> None:
    assert evaluation.speed is not None
    found = speed_rows(evaluation.speed)
    assert [at.batch for at in found] == [1, 8]
    assert found[0].rows[1].ratio.value == "1.87×"
    assert found[0].rows[2].label == "Time to first token"


def test_a_model_alone_has_no_ratio(evaluation: Evaluation) -> None:
    assert evaluation.speed is not None
    alone = evaluation.speed.model_copy(
        update={"teacher": None, "speedup": {}, "batches": (), "left_out": ("batch 8: too large",)}
    )
    assert {row.ratio.value for row in speed_rows(alone)[0].rows} == {"–"}
    assert "in turns" not in speed_note(alone) and "batch 8: too large" in speed_note(alone)
