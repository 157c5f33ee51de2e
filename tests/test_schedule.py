from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.schedule import (
    Cosine,
    Linear,
    WarmupStableDecay,
    learning_rate_share,
    weight_at,
)

SCHEDULES: list[Any] = [
    Linear(start=0.2, end=1.0),
    Linear(start=1.0, end=0.2),
    Cosine(start=1.0, end=0.2),
    WarmupStableDecay(start=0.2, peak=1.0, end=0.1),
    WarmupStableDecay(peak=1.0, end=0.1, warmup=0.0, decay=1.0),
    WarmupStableDecay(peak=1.0, warmup=0.5, decay=0.5),
]
SHAPES: list[Any] = ["constant", "linear", "cosine", "wsd"]


def values(schedule: Any, steps: int) -> list[float]:
    return [schedule.value(step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_starts_and_ends_as_told(schedule: Any) -> None:
    first = schedule.start
    if isinstance(schedule, WarmupStableDecay) and schedule.warmup == 0:
        first = schedule.peak
    assert schedule.value(0, 101) == pytest.approx(first)
    assert schedule.value(100, 101) == pytest.approx(schedule.end)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_runs_stay_within_bounds(schedule: Any, steps: int) -> None:
    for value in values(schedule, steps):
        assert 0 <= value <= 1


@pytest.mark.parametrize("schedule", [Linear(start=0.2, end=1.0), Cosine(start=0.2, end=1.0)])
def test_mean_over_the_run_is_the_middle(schedule: Any) -> None:
    mean = sum(values(schedule, 1001)) / 1001
    assert mean == pytest.approx(0.6)


def test_mean_of_warmup_stable_decay_is_its_area() -> None:
    schedule = WarmupStableDecay(start=0.2, peak=1.0, end=0.1, warmup=0.1, decay=0.2)
    mean = sum(values(schedule, 10_001)) / 10_001
    assert mean == pytest.approx(0.1 * 0.6 + 0.7 * 1.0 + 0.2 * 0.55, abs=1e-3)


def test_linear_moves_by_equal_steps_and_cosine_is_flat_at_both_ends() -> None:
    straight, curved = (values(s(start=0.0, end=1.0), 101) for s in (Linear, Cosine))
    moves = [b - a for a, b in zip(straight[:-1], straight[1:], strict=True)]
    assert max(moves) == pytest.approx(min(moves))
    assert curved[1] < 0.001
    assert 1 - curved[-2] < 0.001
    assert curved[25] == pytest.approx(0.5 - math.sqrt(0.5) / 2)


def test_warmup_stable_decay_rises_stays_and_falls() -> None:
    line = values(WarmupStableDecay(peak=1.0, warmup=0.1, decay=0.2), 101)
    assert line[:11] == sorted(line[:11])
    assert line[10:81] == pytest.approx([1.0] * 71)
    assert line[80:] == sorted(line[80:], reverse=True)
    assert line[90] == pytest.approx(0.5)


@given(st.floats(0, 1), st.floats(0, 1))
def test_warmup_stable_decay_has_no_jumps(warmup: float, rest: float) -> None:
    steps = 301
    schedule = WarmupStableDecay(peak=1.0, warmup=warmup, decay=rest * (1 - warmup))
    line = values(schedule, steps)
    fastest = 1 / max(1e-12, min(share for share in (warmup, schedule.decay, 1.0) if share > 0))
    for a, b in zip(line[:-1], line[1:], strict=True):
        assert abs(b - a) <= 1.01 * fastest / (steps - 1) + 1e-9


def test_a_rise_that_ends_after_the_fall_begins_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"warmup 0\.6 and decay 0\.5"):
        WarmupStableDecay.parse({"peak": 1.0, "warmup": 0.6, "decay": 0.5})


def test_constant_weights_are_what_they_are() -> None:
    assert weight_at(0.3, 5, 10) == 0.3
    assert weight_at(Linear(start=0.0, end=1.0), 5, 11) == 0.5


class TestLearningRate:
    @pytest.mark.parametrize("shape", SHAPES)
    @given(steps=st.integers(1, 200), warmup=st.floats(0, 0.8), floor=st.floats(0, 0.5))
    def test_warms_up_in_a_line_and_never_rises_again(
        self, shape: Any, steps: int, warmup: float, floor: float
    ) -> None:
        first = int(warmup * steps)
        line = [
            learning_rate_share(shape, step, steps, warmup_steps=first, floor=floor)
            for step in range(steps)
        ]
        assert line[:first] == pytest.approx([(step + 1) / first for step in range(first)])
        assert line[first:] == sorted(line[first:], reverse=True)
        assert all(0 < share <= 1 for share in line[:first])
        assert all(floor - 1e-12 <= share <= 1 for share in line[first:])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_first_step_after_the_warmup_has_the_whole_rate(self, shape: Any) -> None:
        assert learning_rate_share(shape, 0, 100) == 1.0
        assert learning_rate_share(shape, 10, 100, warmup_steps=10) == 1.0

    @pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
    @pytest.mark.parametrize("floor", [0.0, 0.1])
    def test_ends_at_the_floor(self, shape: Any, floor: float) -> None:
        assert learning_rate_share(shape, 100, 100, floor=floor) == pytest.approx(floor)
        last = learning_rate_share(shape, 99, 100, floor=floor)
        assert floor < last < floor + 0.06

    def test_shapes(self) -> None:
        assert learning_rate_share("constant", 99, 100) == 1.0
        assert learning_rate_share("linear", 60, 110, warmup_steps=10) == pytest.approx(0.5)
        assert learning_rate_share("cosine", 60, 110, warmup_steps=10) == pytest.approx(0.5)
        assert learning_rate_share("cosine", 25, 100) == pytest.approx(0.5 + math.sqrt(0.5) / 2)
        assert learning_rate_share("wsd", 79, 100) == 1.0
        assert learning_rate_share("wsd", 90, 100) == pytest.approx(0.5)
        assert learning_rate_share("wsd", 90, 100, warmup_steps=40) == pytest.approx(0.5)
        assert learning_rate_share("wsd", 75, 100, decay_share=0.5) == pytest.approx(0.5)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_longer_warmup_than_the_run_is_survived(self, shape: Any) -> None:
        line = [learning_rate_share(shape, s, 5, warmup_steps=10) for s in range(5)]
        assert line == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
