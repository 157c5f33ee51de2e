"""Curves of a run as SVG that goes into the page: same input, same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy import ndarray

from nexus.report.drawing import COLOURS, INK, Plot, canvas, styled, svg
from nexus.report.reading import Step
from nexus.report.words import cell, plain
from nexus.results import Estimate, Evaluation
from nexus.visible import one_line

LINES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
"""Told apart without colour."""

MOST_TERMS = 2 * len(COLOURS)
"""Of a loss, that are drawn: more cannot be told apart, and no recipe of ours has them."""


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps; positions without it are left out."""

    label: str
    steps: ndarray
    values: ndarray

    @property
    def smooth(self) -> ndarray:
        """A centred running mean over a twenty-fifth of the run, narrower at both ends."""
        half = len(self.values) // 50
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        at = np.arange(len(self.values))
        reach = np.minimum(half, np.minimum(at, len(self.values) - 1 - at))
        means: ndarray = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
        return means


def curves(steps: Sequence[Step], evaluation: Evaluation | None) -> list[Plot]:
    """Every curve that the steps have numbers for."""
    if not steps:
        return []
    heldout = evaluation.heldout if evaluation else None
    terms = list(dict.fromkeys(name for step in steps for name in step.get("terms") or {}))
    terms = terms[:MOST_TERMS]
    losses = [_curve(name, steps, _term(name)) for name in terms]
    if len(losses) != 1:
        losses.insert(0, _curve("total", steps, _number("loss")))
    borders = _borders(steps)

    def one(name: str) -> Curve:
        return _curve("training text", steps, _number(name))

    plots = [
        _plot("Loss", losses, "nats a token, before weighting; total as minimised", borders),
        _plot(
            "KL to the teacher",
            [one("kl")],
            "nats a token at temperature 1, on training text",
            borders,
            points=one("heldout_kl"),
            level=heldout.trained.forward_kl if heldout else None,
        ),
        _plot(
            "Top-1 agreement",
            [one("agreement")],
            "of positions, on training text",
            borders,
            points=one("heldout_agreement"),
            level=heldout.trained.agreement if heldout else None,
            percent=True,
        ),
        _plot("Held-out loss", [], "nats a token of the text", borders, points=one("heldout_nll")),
        _plot("Gradient norm", [one("gradient_norm")], "before clipping", borders),
        _plot("Learning rate", [one("learning_rate")], "", borders),
        _plot("Speed", [one("tokens_per_second")], "tokens/s", borders, from_zero=True),
    ]
    return [plot for plot in plots if plot is not None]


def _number(name: str) -> Callable[[Step], float | None]:
    return lambda step: step.get(name)


def _term(name: str) -> Callable[[Step], float | None]:
    return lambda step: (step.get("terms") or {}).get(name)


def _curve(label: str, steps: Sequence[Step], read: Callable[[Step], float | None]) -> Curve:
    """Stages count their steps from one, so positions are counted over the whole run."""
    found = [(at, value) for at, step in enumerate(steps, 1) if (value := read(step)) is not None]
    finite = [(at, value) for at, value in found if np.isfinite(float(value))]
    at, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return Curve(label, at, values)


def _borders(steps: Sequence[Step]) -> list[tuple[float, str]]:
    """Where each stage begins, if there are several."""
    names = [str(step.get("stage", "")) for step in steps]
    begins = [at for at, name in enumerate(names) if at == 0 or name != names[at - 1]]
    return [(at + 0.5, names[at]) for at in begins] if len(begins) > 1 else []


def _plot(
    title: str,
    lines: list[Curve],
    caption: str,
    borders: list[tuple[float, str]],
    points: Curve | None = None,
    level: Estimate | None = None,
    *,
    percent: bool = False,
    from_zero: bool = False,
) -> Plot | None:
    lines = [line for line in lines if len(line.values)]
    if points is not None and not len(points.values):
        points = None
    drawn = [*lines, points] if points is not None else lines
    if not drawn:
        return None
    with styled():
        figure, axes = canvas()
        _draw_lines(axes, lines)
        if points is not None:
            _draw_points(axes, points)
        if level is not None:
            label = f"final held-out {cell(level).value}"
            axes.axhline(level.value, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=label)
        for at, name in borders:
            axes.axvline(at, color=INK, linewidth=0.8, linestyle=":", alpha=0.6)
            axes.annotate(
                _label(name)[:16], (at, 1.0), xycoords=("data", "axes fraction"),
                xytext=(3, -2), textcoords="offset points", va="top", fontsize=8,
            )  # fmt: skip
        if len(lines) > 1 or level is not None or points is not None:
            axes.legend(fontsize=8.5, handlelength=2.2)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if percent:
            low, high = axes.get_ylim()
            axes.set_ylim(max(0.0, low), min(1.0, high))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        if from_zero:
            axes.set_ylim(0, 1.1 * max(line.values.max() for line in drawn))
        axes.set_xlim(0, max(line.steps[-1] for line in drawn) * 1.02)
        said = _caption(lines or drawn, caption, percent)
        described = f"{title} over training steps: {said}"
        if level is not None:
            described += f"; {label}"
        return Plot(title, said, svg(figure, described))


def _draw_lines(axes: Axes, lines: list[Curve]) -> None:
    """Each step faintly, and the running mean over it."""
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        style = LINES[number % len(LINES)]
        axes.plot(line.steps, line.values, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(
            line.steps, line.smooth, color=colour, linewidth=1.8, linestyle=style,
            dash_capstyle="butt", label=_label(line.label),
        )  # fmt: skip


def _draw_points(axes: Axes, points: Curve) -> None:
    axes.plot(
        points.steps, points.values, color=COLOURS[1], marker="D", markersize=4.5,
        linewidth=0.8, linestyle=(0, (1, 2)), label="held-out",
    )  # fmt: skip


def _label(name: str) -> str:
    """A name that is drawn as it is: a dollar begins no formula, an underscore hides nothing."""
    return " " * name.startswith("_") + one_line(name)[:60].replace("$", r"\$")


def _caption(lines: list[Curve], caption: str, percent: bool) -> str:
    if len(lines) > 1:
        return caption
    first, last = lines[0].smooth[[0, -1]]
    if percent:
        moved = f"{100 * first:.1f} % → {100 * last:.1f} %"
    else:
        moved = f"{_short(first)} → {_short(last)}"
    return f"{moved} · {caption}" if caption else moved


def _short(value: float) -> str:
    return f"{value:.2g}" if 0 < abs(value) < 1e-3 else plain(value)
