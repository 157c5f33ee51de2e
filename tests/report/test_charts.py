from __future__ import annotations

from nexus.report.charts import quality_charts, reliability
from nexus.results import Evaluation


def test_both_models_are_in_the_reliability_diagram(evaluation: Evaluation) -> None:
    plot = reliability(evaluation)
    assert plot is not None
    assert "95 % sure, 94 % right" in plot.svg
    for name in ("teacher", "trained student"):
        assert f">{name}</text>" in plot.svg
    assert reliability(Evaluation()) is None


def test_points_are_named_and_what_is_far_off_keeps_its_number(evaluation: Evaluation) -> None:
    size, speed = quality_charts(evaluation)
    for plot in (size, speed):
        for name in ("teacher", "trained student", "untrained student: 8.12"):
            assert f">{name}</text>" in plot.svg
    assert "3.28 at 81.4" in size.svg and "2.83 at 21;" in speed.svg


def test_without_speed_or_loss_there_is_less_to_draw(evaluation: Evaluation) -> None:
    assert len(quality_charts(evaluation.model_copy(update={"speed": None}))) == 1
    assert quality_charts(evaluation.model_copy(update={"heldout": None})) == []
