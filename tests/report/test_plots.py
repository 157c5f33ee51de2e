from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.report.plots import Curve, Plot, curves
from nexus.results import Evaluation


def steps(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "loss": 5.0 / step,
            "terms": {"output": 4.0 / step, "task": 6.0 / step},
            "kl": 4.0 / step,
            "agreement": 1 - 1 / step,
            "learning_rate": 1e-4,
            "gradient_norm": 1.0,
            "tokens_per_second": 900.0,
            **more,
        }
        for step in range(1, count + 1)
    ]


def by_title(plots: list[Plot]) -> dict[str, Plot]:
    return {plot.title: plot for plot in plots}


def test_every_quantity_has_its_curve_and_every_term_its_line(evaluation: Evaluation) -> None:
    plots = by_title(curves(steps(), evaluation))
    assert list(plots) == [
        "Loss",
        "KL to the teacher",
        "Top-1 agreement",
        "Gradient norm",
        "Learning rate",
        "Speed",
    ]
    for line in ("total", "output", "task"):
        assert f">{line}</text>" in plots["Loss"].svg
    assert "held-out 0.668" in plots["KL to the teacher"].svg


def test_drawings_are_well_formed_readable_text_without_foreign_addresses() -> None:
    for plot in curves(steps(), None):
        drawing = ElementTree.fromstring(plot.svg)
        assert drawing.get("role") == "img" and plot.title in str(drawing.get("aria-label"))
        assert list(drawing.iter("{http://www.w3.org/2000/svg}text"))
        assert not re.search(r"(?:href|src)=\"(?!#)", plot.svg)
        assert "currentColor" in plot.svg


def test_the_same_steps_give_the_same_bytes_and_leave_no_settings_behind() -> None:
    before = dict(matplotlib.rcParams)
    assert curves(steps(), None) == curves(steps(), None)
    assert dict(matplotlib.rcParams) == before
    assert not re.search(r"20\d\d-\d\d-\d\d", curves(steps(), None)[0].svg)


def test_what_was_not_logged_is_not_drawn() -> None:
    assert curves([], None) == []
    assert list(by_title(curves([{"step": 1, "loss": 2.0}], None))) == ["Loss"]
    assert "KL to the teacher" not in by_title(curves(steps(kl=None), None))
    for loss in (float("nan"), "nan", "-inf"):  # as metrics.jsonl writes what JSON cannot
        assert "Loss" in by_title(curves([*steps(5), {"step": 6, "loss": loss}], None))


def test_one_term_is_not_drawn_twice() -> None:
    alone = by_title(curves(steps(terms={"output": 1.0}), None))["Loss"]
    assert ">total</text>" not in alone.svg


def test_captions_say_how_far_it_came() -> None:
    plots = by_title(curves(steps(), None))
    assert plots["KL to the teacher"].caption.startswith("4.00 → 0.0667 ·")
    assert plots["Top-1 agreement"].caption.startswith("0.0 % → 98.3 %")


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=200), st.floats(-3, 3), st.floats(-3, 3))
def test_smoothing_keeps_constants_lines_and_ends(
    values: list[float], start: float, slope: float
) -> None:
    at = np.arange(len(values), dtype=float)
    line = Curve("", at, start + slope * at).smooth
    assert line == pytest.approx(start + slope * at, abs=1e-6)
    smooth = Curve("", at, np.array(values)).smooth
    assert len(smooth) == len(values)
    assert (smooth[0], smooth[-1]) == pytest.approx((values[0], values[-1]), abs=1e-6)
    assert smooth.min() >= min(values) - 1e-6 and smooth.max() <= max(values) + 1e-6
