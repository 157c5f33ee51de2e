"""How every figure of the page looks: colours, shapes, and the way from matplotlib to the page."""

from __future__ import annotations

import html
import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: told apart by every kind of colour vision, and in grey."""

INK = "#010203"
"""Stands for the page's text colour, whatever it is."""


@dataclass(frozen=True)
class Mark:
    """How a model is drawn: by shape, filling and colour, each of which is enough alone."""

    colour: str
    shape: str
    hollow: bool = False

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour


MARKS = {
    "teacher": Mark(COLOURS[1], "D"),
    "untrained": Mark(INK, "o", hollow=True),
    "trained": Mark(COLOURS[0], "o"),
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Plot:
    """A figure with the words that belong to it."""

    title: str
    caption: str
    svg: str


def styled() -> Any:
    """The settings under which a figure of ours is made; what was set before comes back."""
    return matplotlib.rc_context(_STYLE)


def canvas(width: float = 3.6, height: float = 2.1) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, at which its letters have the page's size on a phone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def svg(figure: Figure, description: str) -> str:
    """The figure as SVG that belongs into a page: its colours are the page's `--c0` … `--c5` and
    its text colour, and `description` is read out to those who do not see it."""
    buffer = io.StringIO()
    silent = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # Letters are the browser's, whatever this font lacks; an id belongs to one figure of a page.
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": description}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata=silent)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        drawn = drawn.replace(colour.lower(), f"var(--c{number})")
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    label = html.escape(description, quote=True)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
