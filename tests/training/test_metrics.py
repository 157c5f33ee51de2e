"""metrics.jsonl has one line a step, whatever happened in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nexus.training.metrics import Metrics, trackers

VALUES = {"loss": 1.5, "terms": {"task": 2.0, "output": 1.0}, "targets": 7, "note": "text"}


class Seen:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def start(self, run: Path, settings: Mapping[str, Any]) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, dict(values)))

    def finish(self) -> None:
        self.finished += 1


def lines(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write(run: Path, first: int, last: int, stage: str = "train", **more: Any) -> None:
    with Metrics(run, first, stage, (), writes=True) as metrics:
        for step in range(first + 1, last + 1):
            metrics.write(step, {**VALUES, **more})


def test_a_line_a_step_as_it_happens(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, "train", (), writes=True) as metrics:
        metrics.write(1, VALUES)
        assert lines(tmp_path) == [{"stage": "train", "step": 1, **VALUES}]


def test_later_and_half_written_lines_are_dropped_when_it_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "train", "step": 6, "lo')
    write(tmp_path, 3, 4, again=True)
    assert [entry["step"] for entry in lines(tmp_path)] == [1, 2, 3, 4]
    assert [entry.get("again") for entry in lines(tmp_path)] == [None, None, None, True]


def test_other_stages_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 0, 3, "first")
    write(tmp_path, 0, 3, "second")
    write(tmp_path, 1, 2, "second")
    assert [(entry["stage"], entry["step"]) for entry in lines(tmp_path)] == [
        *(("first", step) for step in (1, 2, 3)),
        *(("second", step) for step in (1, 2)),
    ]


def test_one_process_writes(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, "train", (), writes=False) as metrics:
        metrics.write(1, VALUES)
    assert not list(tmp_path.iterdir())


def test_trackers_get_numbers_by_stage_and_are_finished_come_what_may(tmp_path: Path) -> None:
    seen = Seen()
    with (
        pytest.raises(KeyboardInterrupt),
        Metrics(tmp_path, 4, "warm", (seen,), writes=True) as metrics,
    ):
        metrics.write(5, VALUES)
        raise KeyboardInterrupt
    numbers = {"loss": 1.5, "terms/task": 2.0, "terms/output": 1.0, "targets": 7.0}
    assert seen.logged == [(5, {f"warm/{name}": value for name, value in numbers.items()})]
    assert seen.finished == 1
    assert len(lines(tmp_path)) == 1


def test_without_a_dashboard_there_are_no_trackers(tmp_path: Path) -> None:
    assert trackers("none", tmp_path, {}, is_main=True) == ()
    assert trackers("tensorboard", tmp_path, {}, is_main=False) == ()
    assert not list(tmp_path.iterdir())
