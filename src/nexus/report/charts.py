"""Figures of the result: calibration, and quality against size and speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from nexus.report.drawing import INK, MARKS, Plot, canvas, styled, svg
from nexus.report.words import plain, short_count
from nexus.results import Calibration, Estimate, Evaluation, Quality

NAMES = {"teacher": "teacher", "untrained": "untrained student", "trained": "trained student"}

FAR = 3.0
"""A point so many times farther off than the others is named at the edge, not drawn."""


@dataclass(frozen=True)
class Point:
    """A model at its cost and its quality."""

    model: str
    cost: float
    loss: Estimate


def reliability(evaluation: Evaluation) -> Plot | None:
    """How often each model was right where it was so sure, for teacher and trained student."""
    if evaluation.heldout is None:
        return None
    qualities = {"teacher": evaluation.heldout.teacher, "trained": evaluation.heldout.trained}
    found = {model: known for model, quality in qualities.items() if (known := _bins(quality))}
    if not found:
        return None
    with styled():
        figure, axes = canvas(3.6, 3.2)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="ideal")
        for model, calibration in found.items():
            mark = MARKS[model]
            bins = sorted(calibration.bins, key=lambda each: each.confidence)
            x = [bin.confidence for bin in bins]
            y = [bin.accuracy for bin in bins]
            line = "-" if model == "trained" else (0, (5, 2))
            axes.plot(x, y, color=mark.colour, linewidth=1.4, linestyle=line)
            sizes = [12 + 110 * bin.share for bin in bins]
            axes.scatter(
                x, y, s=sizes, marker=mark.shape, c=mark.colour, linewidths=0, label=NAMES[model]
            )
        axes.set_xlabel("confidence in the most likely token")
        axes.set_ylabel("how often it was right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.legend(fontsize=8.5, handlelength=1.6, loc="upper left")
        caption = "under the diagonal is over-confident; the larger a mark, the more positions"
        described = "Reliability diagram. " + "; ".join(
            f"{NAMES[model]}: " + ", ".join(_said(bin.confidence, bin.accuracy) for bin in of.bins)
            for model, of in found.items()
        )
        return Plot("Is it right when it is sure?", caption, svg(figure, described))


def quality_charts(evaluation: Evaluation) -> list[Plot]:
    """Loss on the text against parameters, and against decoding speed; none without quality."""
    heldout = evaluation.heldout
    if heldout is None:
        return []
    losses = {
        model: quality.nll
        for model, quality in (
            ("teacher", heldout.teacher),
            ("untrained", heldout.untrained),
            ("trained", heldout.trained),
        )
        if quality is not None
    }
    plots = []
    sizes = {model: float(size.parameters) for model, size in evaluation.size.items()}
    if points := _points(losses, sizes):
        plots.append(_scatter("Quality against size", "parameters", points))
    if evaluation.speed is not None and evaluation.speed.teacher is not None:
        rates = {
            "teacher": evaluation.speed.teacher.decode.value,
            "student": evaluation.speed.student.decode.value,
        }
        if points := _points(losses, rates):
            label = f"tokens/s while decoding, batch {evaluation.speed.batch}"
            plots.append(_scatter("Quality against speed", label, points))
    return plots


def _bins(quality: Quality | None) -> Calibration | None:
    found = quality.calibration if quality else None
    return found if found and found.bins else None


def _said(confidence: float, accuracy: float) -> str:
    return f"{100 * confidence:.0f} % sure, {100 * accuracy:.0f} % right"


def _points(losses: dict[str, Estimate], costs: dict[str, float]) -> list[Point]:
    """A student's cost is the same before and after training."""
    cost = {
        "teacher": costs.get("teacher"),
        "untrained": costs.get("student", costs.get("trained")),
        "trained": costs.get("student", costs.get("trained")),
    }
    found = [
        Point(model, at, loss)
        for model, loss in losses.items()
        if (at := cost[model]) is not None and math.isfinite(loss.value)
    ]
    return found if len(found) > 1 else []


def _scatter(title: str, label: str, points: Sequence[Point]) -> Plot:
    with styled():
        figure, axes = canvas(3.6, 2.6)
        top = _top(points)
        costs = [point.cost for point in points]
        spread = (max(costs) - min(costs)) or 0.2 * max(costs)
        axes.set_xlim(max(0.0, min(costs) - 0.35 * spread), max(costs) + 0.35 * spread)
        for point in points:
            if point.loss.value <= top:
                _draw(axes, point)
        axes.margins(y=0.2)
        axes.autoscale_view(scalex=False)
        for point in points:
            if point.loss.value > top:
                _point_up(axes, point)
        axes.set_xlabel(label)
        axes.set_ylabel("loss, nats a token")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        said = "; ".join(
            f"{NAMES[point.model]}: {plain(point.loss.value)} at {short_count(point.cost)}"
            for point in points
        )
        caption = "lower is better; bars are 95 % intervals of the loss"
        return Plot(title, caption, svg(figure, f"{title}. {label}; {said}"))


def _top(points: Sequence[Point]) -> float:
    """The highest loss that is drawn to scale: an untrained student can be far off."""
    near = [point.loss.value for point in points if point.model != "untrained"]
    if not near:
        return math.inf
    spread = max(max(near) - min(near), 0.05 * max(near))
    return max(near) + FAR * spread


def _draw(axes: Axes, point: Point) -> None:
    mark, loss = MARKS[point.model], point.loss
    if loss.low is not None and loss.high is not None:
        axes.plot([point.cost, point.cost], [loss.low, loss.high], color=mark.colour, linewidth=1.4)
    axes.plot(
        [point.cost], [loss.value], marker=mark.shape, markersize=7, linestyle="none",
        markerfacecolor=mark.face, markeredgecolor=mark.colour,
    )  # fmt: skip
    _name(axes, NAMES[point.model], (point.cost, loss.value), 5)


def _point_up(axes: Axes, point: Point) -> None:
    """Too far off to be drawn to scale: an arrow at the upper edge, with its value."""
    high = axes.get_ylim()[1]
    low = axes.get_ylim()[0]
    axes.set_ylim(low, high + 0.25 * (high - low))
    axes.annotate(
        "", xy=(point.cost, 1.0), xytext=(point.cost, 0.86),
        xycoords=("data", "axes fraction"), textcoords=("data", "axes fraction"),
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 0.9},
    )  # fmt: skip
    text = f"{NAMES[point.model]}: {plain(point.loss.value)}"
    _name(axes, text, (point.cost, axes.get_ylim()[1]), -12)


def _name(axes: Axes, text: str, at: tuple[float, float], above: int) -> None:
    """Beside a point, on the side that has the room."""
    left, right = axes.get_xlim()
    side = -1 if at[0] > (left + right) / 2 else 1
    axes.annotate(
        text, at, xytext=(7 * side, above), textcoords="offset points", fontsize=8.5,
        ha="left" if side > 0 else "right",
    )  # fmt: skip
