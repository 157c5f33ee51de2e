"""What the models can do: each task with its scores, and what is left of the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nexus.report.words import ABSENT, Cell, cell, count, p_value, signed
from nexus.results import Comparison, Estimate, Refused, TaskResult

MODELS = ("teacher", "untrained", "trained")

RATIOS = {"raw": "raw", "above_chance": "above chance", "gap_closed": "gap closed"}


@dataclass(frozen=True)
class Versus:
    """The trained student against another model on the same items."""

    difference: Cell = Cell()
    p: str = ""
    detail: str = ""
    """How many items each of the two alone got right."""


@dataclass(frozen=True)
class Lane:
    """Where a model's score and its interval lie on an axis, in percent of its length."""

    model: str
    at: float
    low: float
    high: float
    shown: str


@dataclass(frozen=True)
class TaskRow:
    """One task, ready to be shown."""

    name: str
    how: str
    items: str
    chance: str
    chance_at: float
    forgetting: bool
    """Whether nothing of the task was trained on, so that a loss is forgetting."""
    warning: str
    teacher: Cell
    untrained: Cell
    trained: Cell
    ratios: dict[str, Cell]
    versus: dict[str, Versus]
    unanswered: str
    lanes: list[Lane]


@dataclass(frozen=True)
class MetricRow:
    """A score beside those that the comparisons are about."""

    task: str
    metric: str
    cells: list[Cell]


@dataclass(frozen=True)
class TasksView:
    """All tasks on one axis."""

    rows: list[TaskRow]
    ticks: list[tuple[float, str]]
    """Where on the axis, in percent of its length, and what is written there."""
    refusals: list[str]
    """Why a ratio is not said."""
    others: list[MetricRow]
    has: dict[str, bool]
    """Which columns hold anything."""

    @property
    def described(self) -> str:
        """The chart in words."""
        return "; ".join(
            f"{row.name}: " + ", ".join(f"{lane.model} {lane.shown}" for lane in row.lanes)
            for row in self.rows
        )


def tasks_view(tasks: Mapping[str, TaskResult]) -> TasksView | None:
    """All tasks; nothing if there are none."""
    if not tasks:
        return None
    low, high = _axis(tasks.values())
    rows = [_row(name, task, low, high) for name, task in tasks.items()]
    return TasksView(
        rows=rows,
        ticks=_ticks(low, high),
        refusals=[said for name, task in tasks.items() for said in _refusals(name, task)],
        others=[other for name, task in tasks.items() for other in _others(name, task)],
        has={
            **{model: any(model in task.scores for task in tasks.values()) for model in MODELS},
            "ratios": any(task.retention for task in tasks.values()),
            "versus teacher": any(
                "trained - teacher" in task.comparisons for task in tasks.values()
            ),
            "versus untrained": any(
                "trained - untrained" in task.comparisons for task in tasks.values()
            ),
            "unanswered": any(any(task.unanswered.values()) for task in tasks.values()),
        },
    )


def primary(task: TaskResult, model: str) -> Estimate | None:
    """The score that the comparisons are about."""
    return task.scores.get(model, {}).get(task.metric)


def _row(name: str, task: TaskResult, low: float, high: float) -> TaskRow:
    unsure = task.teacher_above_chance is False
    return TaskRow(
        name=name,
        how=f"{_words(task.kind)}, {_words(task.metric)}, {_items(task)}",
        items=count(task.items),
        chance=cell(Estimate(value=task.chance, n=0, unit="share")).value,
        chance_at=_place(task.chance, low, high),
        forgetting=not task.trained_on,
        warning="the teacher is not above chance" if unsure else "",
        teacher=cell(primary(task, "teacher")),
        untrained=cell(primary(task, "untrained")),
        trained=cell(primary(task, "trained")),
        ratios={ratio: _ratio(task.retention.get(ratio)) for ratio in RATIOS},
        versus={
            other: _versus(task.comparisons.get(f"trained - {other}"))
            for other in ("teacher", "untrained")
        },
        unanswered=_unanswered(task),
        lanes=[
            _lane(model, score, low, high)
            for model in MODELS
            if (score := primary(task, model)) is not None and score.unit == "share"
        ],
    )


def _ratio(found: Estimate | Refused | None) -> Cell:
    return Cell("not said") if isinstance(found, Refused) else cell(found)


def _versus(comparison: Comparison | None) -> Versus:
    if comparison is None:
        return Versus()
    return Versus(
        difference=signed(comparison.difference),
        p=f"p {_equal(p_value(comparison.p_value))}",
        detail=f"+{count(comparison.gained)} \N{MINUS SIGN}{count(comparison.lost)}",
    )


def _refusals(name: str, task: TaskResult) -> list[str]:
    """Each reason once, after all ratios that it holds for."""
    reasons: dict[str, list[str]] = {}
    for ratio, found in task.retention.items():
        if isinstance(found, Refused):
            reasons.setdefault(found.reason, []).append(RATIOS.get(ratio, ratio))
    return [f"{name}, {' and '.join(ratios)}: {reason}" for reason, ratios in reasons.items()]


def _equal(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _unanswered(task: TaskResult) -> str:
    if not any(task.unanswered.values()):
        return "0" if task.unanswered else ABSENT
    shown = [f"{count(task.unanswered.get(model, 0))}" for model in MODELS if model in task.scores]
    return " / ".join(shown)


def _others(name: str, task: TaskResult) -> list[MetricRow]:
    metrics = dict.fromkeys(metric for scores in task.scores.values() for metric in scores)
    return [
        MetricRow(
            name,
            _words(metric),
            [cell(task.scores.get(model, {}).get(metric)) for model in MODELS],
        )
        for metric in metrics
        if metric != task.metric
    ]


def _items(task: TaskResult) -> str:
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{count(task.items)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _axis(tasks: Iterable[TaskResult]) -> tuple[float, float]:
    """From and to whole tenths, around every score, interval and chance that is to be drawn."""
    ends = []
    for task in tasks:
        ends.append(task.chance)
        for model in MODELS:
            score = primary(task, model)
            if score is not None and score.unit == "share":
                ends += [end for end in (score.low, score.value, score.high) if end is not None]
    low = max(0.0, math.floor(10 * min(ends) + 1e-9) / 10)
    high = min(1.0, math.ceil(10 * max(ends) - 1e-9) / 10)
    return (low, high) if high > low else (low, low + 0.1)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    tenths = range(round(10 * low), round(10 * high) + 1)
    every = 1 if len(tenths) <= 6 else 2
    return [
        (_place(tenth / 10, low, high), f"{10 * tenth}\N{NO-BREAK SPACE}%")
        for tenth in tenths[::every]
    ]


def _place(value: float, low: float, high: float) -> float:
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def _lane(model: str, score: Estimate, low: float, high: float) -> Lane:
    ends = (score.value if end is None else end for end in (score.low, score.high))
    left, right = (_place(end, low, high) for end in ends)
    shown = cell(score)
    return Lane(model, _place(score.value, low, high), left, right, shown.line)
