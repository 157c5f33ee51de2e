"""What a run says while it trains: metrics.jsonl always, a dashboard if wanted, and the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TextIO, cast

Dashboard = Literal["trackio", "tensorboard", "wandb", "none"]


class Tracker(Protocol):
    """Where metrics go beside the file. Three methods are all it takes."""

    def start(self, run: Path, settings: Mapping[str, Any]) -> None: ...
    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def finish(self) -> None: ...


class Metrics:
    """metrics.jsonl, one line a step, and the trackers. The file is the source of truth.

    Opened at a step, it drops the lines after it: a run that is resumed writes them again.
    """

    def __init__(
        self, run: Path, step: int, stage: str, trackers: tuple[Tracker, ...], *, writes: bool
    ) -> None:
        """Open the file of `run` at `step`. Only the first of several processes writes."""
        self._stage, self._trackers, self._file = stage, trackers, cast(TextIO | None, None)
        if not writes:
            return
        file = run / "metrics.jsonl"
        kept = [
            line
            for line in (file.read_text().splitlines() if file.exists() else [])
            if _is_before(line, stage, step)
        ]
        aside = file.with_suffix(".part")
        aside.write_text("".join(line + "\n" for line in kept))
        aside.replace(file)
        self._file = file.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        self._file.flush()
        flat = dict(_flatten(values, f"{self._stage}/"))
        for tracker in self._trackers:
            tracker.log(step, flat)

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


def _is_before(line: str, stage: str, step: int) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return False  # the line that a killed run was writing
    return bool(entry["stage"] != stage or entry["step"] <= step)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat.append((f"{prefix}{name}", float(value)))
    return flat
