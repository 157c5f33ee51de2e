"""The comparison in the terminal, at the end of a run and of `nexus evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nexus.report.economy import size_rows, speed_rows
from nexus.report.few_bits import few_bits_sentences
from nexus.report.fidelity import exposure, gaps, heldout_rows
from nexus.report.forms import form_sentences
from nexus.report.tasks import TasksView, tasks_view
from nexus.report.words import ABSENT, Cell, count
from nexus.results import Evaluation
from nexus.visible import visible

Line = tuple[str, tuple[Cell, Cell, Cell]]
"""A label, and what stands beside it for teacher, untrained and trained student."""


def retention_table(
    evaluation: Mapping[str, Any] | Evaluation, *, student: str = "trained"
) -> Table:
    """Teacher, untrained and trained student beside each other, with what training closed.

    A model of which nothing was measured has no column. It fits 80 letters.

    Args:
        evaluation: the contents of `evaluation.json`, parsed or not.
        student: what the last column is called: a model that was not trained here is not.
    """
    if not isinstance(evaluation, Evaluation):
        evaluation = Evaluation.parse(evaluation, "evaluation.json")
    view = tasks_view(evaluation.tasks)
    sections = [part for part in _sections(evaluation, view) if part]
    lines = [line for section in sections for line in section]
    table = Table(
        title="What is left of the teacher" if _any(lines, 0) else "What was measured",
        title_justify="left",
        caption=Text(visible(_caption(evaluation, view)), style="table.caption"),
        caption_justify="left",
    )
    table.add_column("")
    shown = [at for at in (0, 1, 2) if at == 2 or _any(lines, at)]
    for at in shown:
        name = ("teacher", "untrained", student)[at]
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections:
        for line in section:
            label, cells = line
            texts = (_text(cells[at], "bold" if at == 2 else "") for at in shown)
            table.add_row(Text(visible(label)), *texts)
        table.add_section()
    return table


def _sections(evaluation: Evaluation, view: TasksView | None) -> list[list[Line]]:
    heldout = evaluation.heldout
    rows = heldout_rows(heldout) if heldout else []
    groups = dict.fromkeys(row.group for row in rows)
    parts: list[list[Line]] = [
        [
            (row.label, (row.teacher, row.untrained, row.trained))
            for row in rows
            if row.group == group
        ]
        for group in groups
    ]
    if evaluation.rollouts:
        own = exposure(evaluation.rollouts, heldout)
        parts.append([(f"{row.label}, own text", (Cell(), Cell(), row.own)) for row in own])
    parts.append([_gap(gap.label, gap.cell if gap.share else None) for gap in gaps(evaluation)])
    parts += _task_sections(view)
    parts.append([(row.label, (row.teacher, Cell(), row.student)) for row in size_rows(evaluation)])
    for at in speed_rows(evaluation.speed) if evaluation.speed else []:
        batch = f"batch {at.batch}"
        parts.append(
            [(f"{row.label}, {batch}", (row.teacher, Cell(), row.student)) for row in at.rows]
        )
    return parts


def _gap(label: str, found: Cell | None) -> Line:
    return f"Gap closed, {label}", (Cell(), Cell(), found or Cell("not said"))


def _task_sections(view: TasksView | None) -> list[list[Line]]:
    if view is None:
        return []
    scores: list[Line] = [
        (f"{row.name} (chance {row.chance})", (row.teacher, row.untrained, row.trained))
        for row in view.rows
    ]
    kept: list[Line] = [
        (f"{row.name}, kept above chance", (Cell(), Cell(), row.ratios["above_chance"]))
        for row in view.rows
        if row.ratios["above_chance"] != Cell()
    ]
    return [scores, kept]


def _any(lines: Sequence[Line], at: int) -> bool:
    return any(cells[at] != Cell() for _, cells in lines)


def _text(cell: Cell, style: str = "") -> Text:
    """The interval under the value keeps four columns within eighty letters."""
    text = Text("" if cell.value == ABSENT else visible(cell.value), style=style)
    if cell.interval:
        text.append(f"\n{visible(cell.interval)}", style="not bold dim")
    return text


def _caption(evaluation: Evaluation, view: TasksView | None) -> str:
    notes = []
    if heldout := evaluation.heldout:
        notes.append(
            f"{count(heldout.documents)} held-out documents, {count(heldout.tokens)} tokens. Below "
            "each value its 95 % interval over documents (speeds: quartiles over rounds)."
        )
    for gap in gaps(evaluation):
        if gap.share is None:
            notes.append(f"Gap closed, {gap.label}: not said, because {gap.reason}.")
    notes += form_sentences(evaluation)
    notes += few_bits_sentences(evaluation)
    if view:
        items = ", ".join(f"{row.name} {row.items}" for row in view.rows)
        notes.append(f"Items: {items}. Below each score its 95 % interval over items.")
        for row in view.rows:
            against = row.versus["teacher"]
            if against.p:
                notes.append(
                    f"{row.name}: {against.difference.line} against the teacher, McNemar "
                    f"{against.p} ({against.detail})."
                )
        notes += [f"{refusal[:1].upper()}{refusal[1:]}." for refusal in view.refusals]
    return "\n".join(notes)
