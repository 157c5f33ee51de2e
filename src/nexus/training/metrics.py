"""What a run says while it trains: metrics.jsonl always, a dashboard if wanted, and the screen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from nexus.disk import writing
from nexus.durable import flush

Dashboard = Literal["trackio", "tensorboard", "wandb", "none"]


class Tracker(Protocol):
    """Where metrics go beside the file. Three methods are all it takes."""

    def start(self, run: Path, settings: Mapping[str, Any]) -> None: ...
    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def finish(self) -> None: ...


class Metrics:
    """metrics.jsonl, one line a step, and the trackers. The file is the source of truth.

    Opened where a checkpoint left off, it is cut to that length: what came after is written again.
    """

    def __init__(
        self, run: Path, length: int, stage: str, trackers: tuple[Tracker, ...], *, writes: bool
    ) -> None:
        """Open the file of `run` at `length` bytes. Only the first of several processes writes.

        Raises:
            DiskFull, DiskFault: if the disk refuses, here or at any later line.
        """
        self._stage, self._trackers = stage, trackers
        self._path = run / "metrics.jsonl"
        self._file: FileIO | None = None
        self.lost = 0
        """Bytes that were there at the checkpoint, and are not there any more."""
        if not writes:
            return
        with writing(self._path):
            new = not self._path.exists()
            self._file = FileIO(self._path, "a")
            end = _end_of_line(self._path, length)
            self.lost = length - end
            self._file.truncate(end)
            self.flush()
            if new:
                flush(run)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        entry = {"stage": self._stage, "step": step, **values}
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        with writing(self._path, len(line)):
            left = memoryview(line)
            while left:  # a disk that is nearly full takes only a part
                left = left[self._file.write(left) :]
        flat = dict(_flatten(values, f"{self._stage}/"))
        for tracker in self._trackers:
            tracker.log(step, flat)

    def cut(self, length: int) -> None:
        """Forget all lines after the first `length` bytes: they are written again."""
        if self._file is not None:
            with writing(self._path):
                self._file.truncate(length)

    def flush(self) -> int:
        """Force all lines to disk, and return how many bytes they are."""
        if self._file is None:
            return 0
        with writing(self._path):
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def trackers(
    dashboard: Dashboard, run: Path, settings: Mapping[str, Any], *, is_main: bool
) -> tuple[Tracker, ...]:
    """The dashboards of a run, started; none on other ranks than the first."""
    if not is_main or dashboard == "none":
        return ()
    from nexus.training import dashboards

    tracker: Tracker
    match dashboard:
        case "trackio":
            tracker = dashboards.Trackio()
        case "tensorboard":
            tracker = dashboards.TensorBoard()
        case "wandb":
            tracker = dashboards.WeightsAndBiases()
    tracker.start(run, settings)
    return (tracker,)


def _end_of_line(file: Path, length: int) -> int:
    """`length`, or where the last whole line ends if the file has lost something since."""
    if file.stat().st_size >= length:
        return length
    return file.read_bytes().rfind(b"\n") + 1


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat.append((f"{prefix}{name}", float(value)))
    return flat
