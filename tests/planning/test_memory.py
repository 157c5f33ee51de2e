"""The forecast of memory: its parts are sums that anyone can check."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

from nexus.planning.hollow import Hollow
from nexus.planning.memory import Forecast, Work, forecast, training_forecast

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))
WORK = Work(rows=4, length=64, micro_batches=2, precision="fp32")


def told(work: Work) -> Forecast:
    teacher = Hollow(TINY["make_model"](layers=4, seed=0).config)
    student = Hollow(TINY["make_model"](layers=2, seed=0).config)
    return training_forecast(teacher, 4, student, work)


def test_weights_gradients_and_moments_are_counted_exactly() -> None:
    parts = told(WORK).parts
    student = sum(p.numel() for p in TINY["make_model"](layers=2, seed=0).parameters())
    teacher = sum(p.numel() for p in TINY["make_model"](layers=4, seed=0).parameters())
    assert parts["student"] == parts["gradients"] == 4 * student
    assert parts["optimizer"] == 2 * 4 * student and parts["teacher"] == 4 * teacher


def test_whatever_saves_memory_is_told_to() -> None:
    whole = told(WORK).total
    assert told(replace(WORK, gradient_checkpointing=True)).total < whole
    assert told(replace(WORK, rows=2)).total < whole
    assert told(replace(WORK, shares=2)).total < whole
    assert told(replace(WORK, on_host=False)).total < whole


def test_the_dearer_phase_is_told() -> None:
    """Of one row of one token evaluating is dearer, which holds a second copy of the student."""
    config = TINY["make_model"](layers=2, seed=0).config
    small = replace(WORK, rows=1, length=1, lora_rank=1, on_host=False)
    parts = forecast(Hollow(config), 4, Hollow(config), small).parts
    assert parts["a second copy of the student"] == parts["student"] == parts["teacher"]
    assert forecast(Hollow(config), 4, Hollow(config), WORK) == training_forecast(
        Hollow(config), 4, Hollow(config), WORK
    )
