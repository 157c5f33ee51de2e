"""Curves of a run as SVG that goes into the page: same input, same bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy import ndarray

from nexus.report.reading import Step
from nexus.report.words import cell, plain
from nexus.results import Estimate, Evaluation
from nexus.visible import one_line

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: told apart by every kind of colour vision, and in grey."""

MOST_TERMS = 2 * len(COLOURS)
"""Of a loss, that are drawn: more cannot be told apart, and no recipe of ours has them."""

_INK = "#010203"
"""Stands for the page's text colour, whatever it is."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nexus",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Plot:
    """A figure with the words that belong to it."""

    title: str
    caption: str
    svg: str


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
    plots = [
        _plot("Loss", losses, "nats a token, before weighting; total as minimised"),
        _plot(
            "KL to the teacher",
            [_curve("KL", steps, _number("kl"))],
            "nats a token at temperature 1, on training text",
            heldout.trained.forward_kl if heldout else None,
        ),
        _plot(
            "Top-1 agreement",
            [_curve("agreement", steps, _number("agreement"))],
            "of positions, on training text",
            heldout.trained.agreement if heldout else None,
            percent=True,
        ),
        _plot("Learning rate", [_curve("rate", steps, _number("learning_rate"))], ""),
        _plot(
            "Speed",
            [_curve("speed", steps, _number("tokens_per_second"))],
            "tokens/s",
            from_zero=True,
        ),
        _plot(
            "Gradient norm", [_curve("norm", steps, _number("gradient_norm"))], "before clipping"
        ),
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


def _plot(
    title: str,
    lines: list[Curve],
    caption: str,
    heldout: Estimate | None = None,
    *,
    percent: bool = False,
    from_zero: bool = False,
) -> Plot | None:
    lines = [line for line in lines if len(line.values)]
    if not lines:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for colour, line in zip(COLOURS * len(lines), lines, strict=False):
            axes.plot(line.steps, line.values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(
                line.steps, line.smooth, color=colour, linewidth=1.8, label=_label(line.label)
            )
        if heldout is not None:
            _mark(axes, heldout)
        if len(lines) > 1 or heldout is not None:
            axes.legend(fontsize=8.5, handlelength=1.4)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if percent:
            low, high = axes.get_ylim()
            axes.set_ylim(max(0.0, low), min(1.0, high))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        if from_zero:
            axes.set_ylim(0, 1.1 * max(line.values.max() for line in lines))
        axes.set_xlim(0, max(line.steps[-1] for line in lines) * 1.01)
        return Plot(title, _caption(lines, caption, percent), _svg(figure, title))


def _label(name: str) -> str:
    """A name that is drawn as it is: a dollar begins no formula, an underscore hides nothing."""
    return " " * name.startswith("_") + one_line(name)[:60].replace("$", r"\$")


def _mark(axes: Axes, heldout: Estimate) -> None:
    """The held-out result, as a level to compare the training text with."""
    label = f"held-out {cell(heldout).value}"
    axes.axhline(heldout.value, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label=label)


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


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    silent = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with warnings.catch_warnings():  # letters are the browser's, whatever this font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata=silent)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    # Groups are numbered within each figure, and a page may hold an id only once.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{title} over training steps"', 1)
