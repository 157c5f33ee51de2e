"""metrics.jsonl has one line a step, whatever happened in between, and is cut to the byte."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from nexus.disk import DiskFull
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


def write(run: Path, at: int, first: int, last: int, stage: str = "train", **more: Any) -> int:
    """Lines from `at` bytes on; returns where they end."""
    with Metrics(run, at, stage, (), writes=True) as metrics:
        for step in range(first, last + 1):
            metrics.write(step, {**VALUES, **more})
        return metrics.flush()


def test_a_line_a_step_as_it_happens(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, "train", (), writes=True) as metrics:
        metrics.write(1, VALUES)
        assert lines(tmp_path) == [{"stage": "train", "step": 1, **VALUES}]


def test_what_came_after_a_checkpoint_is_cut_off(tmp_path: Path) -> None:
    """To the byte, whatever it was: later lines, half a line, lines of a later stage."""
    end = write(tmp_path, 0, 1, 3)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    assert len(whole) == end
    later = write(tmp_path, end, 1, 4, "second")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "second", "step": 6, "lo')
    assert write(tmp_path, later, 5, 4, "second") == later
    assert write(tmp_path, end, 4, 3) == end
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_new_run_begins_with_an_empty_file(tmp_path: Path) -> None:
    """Also where an earlier start was killed before its first checkpoint."""
    write(tmp_path, 0, 1, 3)
    assert write(tmp_path, 0, 1, 0) == 0
    assert lines(tmp_path) == []


@settings(max_examples=50)
@given(end=integers(0, 1000), cut=integers(0, 1000))
def test_a_line_is_whole_or_not_there(
    tmp_path_factory: pytest.TempPathFactory, end: int, cut: int
) -> None:
    """Wherever the file was cut by others, and wherever the checkpoint thinks it ended."""
    run = tmp_path_factory.mktemp("run")
    write(run, 0, 1, 5)
    whole = (run / "metrics.jsonl").read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(whole) if byte == ord("\n"))]
    end = ends[end % len(ends)]
    (run / "metrics.jsonl").write_bytes(whole[:cut])
    with Metrics(run, end, "train", (), writes=True) as metrics:
        kept = metrics.flush()
        assert metrics.lost == end - kept
    assert kept == max(at for at in ends if at <= min(end, cut))
    assert (run / "metrics.jsonl").read_bytes() == whole[:kept]


def test_every_line_is_flushed_where_a_checkpoint_relies_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Metrics(tmp_path, 0, "train", (), writes=True) as metrics:
        flushed: list[int] = []
        monkeypatch.setattr(os, "fsync", flushed.append)
        metrics.write(1, VALUES)
        assert not flushed
        assert metrics.flush() == (tmp_path / "metrics.jsonl").stat().st_size
        assert len(flushed) == 1


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    """Opened for appending, which changes nothing of the device."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with Metrics(tmp_path, 0, "train", (), writes=False) as metrics:
        metrics._file = FileIO(tmp_path / "metrics.jsonl", "a")
        with pytest.raises(DiskFull, match=r"metrics\.jsonl cannot be written: No space left"):
            metrics.write(1, VALUES)


def test_one_process_writes(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, "train", (), writes=False) as metrics:
        metrics.write(1, VALUES)
        assert metrics.flush() == 0
    assert not list(tmp_path.iterdir())


def test_trackers_get_numbers_by_stage_and_are_finished_come_what_may(tmp_path: Path) -> None:
    seen = Seen()
    with (
        pytest.raises(KeyboardInterrupt),
        Metrics(tmp_path, 0, "warm", (seen,), writes=True) as metrics,
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
