"""Two models compared, in the terminal: paired differences, tests, and a verdict in words."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from nexus.contrasts import Contrast, Contrasts
from nexus.report.words import Cell, cell, count
from nexus.results import Estimate
from nexus.visible import visible

VERDICTS = {"first": "A better", "second": "B better", "none detected": "no difference detected"}


def contrasts_table(contrasts: Contrasts) -> Table:
    """A row a measure; what could not have been seen is said beside what was not."""
    table = Table(
        title=Text(visible(f"A = {contrasts.first.name}\nB = {contrasts.second.name}")),
        title_justify="left",
        caption=Text(visible(_caption(contrasts)), style="table.caption"),
        caption_justify="left",
    )
    table.add_column("", min_width=24)
    for heading in ("A", "B", "A - B", "p, Holm's", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in contrasts.rows:
        table.add_row(
            _said(row),
            *(_text(cell(each)) for each in (row.first, row.second, row.difference)),
            f"{_p_value(row.p_value)}\n{_p_value(row.adjusted_p_value)}",
            count(row.difference.n),
        )
    return table


def _said(row: Contrast) -> Text:
    """The measure, and under it the verdict, which would not fit into a column of its own."""
    text, verdict = Text(visible(row.measure)), VERDICTS[row.verdict]
    if row.verdict != "none detected":
        return text.append(f"\n{verdict}", style="bold")
    if row.detectable:
        smallest = Estimate(value=row.detectable, n=row.difference.n, unit=row.difference.unit)
        verdict += f" (seen from {cell(smallest).value} on)"
    return text.append(f"\n{verdict}")


def _text(shown: Cell) -> Text:
    """The interval under the value, to be narrow."""
    text = Text(visible(shown.value))
    if shown.interval:
        text.append(f"\n{visible(shown.interval)}", style="dim")
    return text


def _caption(contrasts: Contrasts) -> str:
    rows = len(contrasts.rows)
    notes = [
        "Paired by document and by item; below each value its 95 % interval, below each p Holm's "
        f"over {rows} comparison{'s' * (rows > 1)}. p: McNemar's exact test for items, signs "
        "flipped at random for documents. Seen from: what four of five such comparisons find.",
        *(f"Left out: {what}." for what in contrasts.left_out),
    ]
    return "\n".join(notes)


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
