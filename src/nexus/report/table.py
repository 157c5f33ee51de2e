"""The comparison in the terminal, at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from nexus.report.summary import comparison, gaps
from nexus.report.words import Cell, count
from nexus.results import Evaluation
from nexus.visible import visible


def retention_table(evaluation: Mapping[str, Any] | Evaluation) -> Table:
    """Teacher, untrained and trained student beside each other, with what training closed.

    Args:
        evaluation: the contents of `evaluation.json`, parsed or not.
    """
    if not isinstance(evaluation, Evaluation):
        evaluation = Evaluation.parse(evaluation, "evaluation.json")
    table = Table(
        title="What is left of the teacher",
        title_justify="left",
        caption=Text(visible(_caption(evaluation)), style="table.caption"),
        caption_justify="left",
    )
    table.add_column("")
    for name in ("teacher", "untrained", "trained"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison(evaluation):
        cells = (_text(row.teacher), _text(row.untrained), _text(row.trained, "bold"))
        table.add_row(Text(visible(row.label)), *cells)
    closed = gaps(evaluation)
    if closed:
        table.add_section()
    for gap in closed:
        shown = _text(gap.cell, "bold") if gap.share else Text("not said")
        table.add_row(Text(f"Gap closed, {visible(gap.label)}"), "", "", shown)
    return table


def _text(cell: Cell, style: str = "") -> Text:
    """The interval under the value keeps four columns within eighty letters."""
    text = Text(visible(cell.value), style=style)
    if cell.interval:
        text.append(f"\n{visible(cell.interval)}", style="not bold dim")
    return text


def _caption(evaluation: Evaluation) -> str:
    notes = []
    if heldout := evaluation.heldout:
        notes.append(
            f"{count(heldout.documents)} held-out documents, {count(heldout.tokens)} tokens. Below "
            "each value its 95 % interval over documents (speeds: quartiles over rounds)."
        )
    for gap in gaps(evaluation):
        if gap.share is None:
            notes.append(f"Gap closed, {gap.label}: not said, because {gap.reason}.")
    return "\n".join(notes)
