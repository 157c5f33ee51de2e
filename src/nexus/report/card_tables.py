"""The report's numbers as Markdown for the model card."""

from __future__ import annotations

import re

from nexus.report.economy import size_rows, speed_rows
from nexus.report.fidelity import exposure, gaps, heldout_rows, measured_on
from nexus.report.forms import forms_view
from nexus.report.tasks import TasksView, tasks_view
from nexus.report.words import ABSENT, Cell
from nexus.results import Evaluation
from nexus.visible import one_line


def quality_section(evaluation: Evaluation) -> list[str]:
    """What is left of the teacher on held-out text; nothing if it was not measured."""
    if evaluation.heldout is None:
        return []
    lines = ["| | teacher | untrained | trained |", "|---|---:|---:|---:|"]
    for row in heldout_rows(evaluation.heldout):
        lines.append(_line(row.label, row.teacher, row.untrained, row.trained))
    if evaluation.rollouts:
        for own in exposure(evaluation.rollouts, evaluation.heldout):
            lines.append(_line(f"{own.label}, on its own text", Cell(""), Cell(""), own.own))
    for gap in gaps(evaluation):
        if gap.share:
            lines.append(_line(f"Gap closed, {gap.label}", Cell(""), Cell(""), gap.cell))
    said = (
        f"{measured_on(evaluation.heldout)}; in brackets 95 % intervals from resampling documents. "
        "“Untrained” is the student before its first step."
    )
    refusals = [
        escaped(f"Gap closed, {gap.label}, is not said: {gap.reason}.")
        for gap in gaps(evaluation)
        if gap.share is None
    ]
    return ["## What is left of the teacher", "\n".join(lines), " ".join([said, *refusals])]


def task_section(evaluation: Evaluation) -> list[str]:
    """What the models can do; nothing if no task was put to them."""
    view = tasks_view(evaluation.tasks)
    if view is None:
        return []
    lines = [
        "| task | items | chance | teacher | untrained | trained | kept above chance |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in view.rows:
        cells = (row.teacher, row.untrained, row.trained, row.ratios["above_chance"])
        lines.append(_line(row.name, Cell(row.items), Cell(row.chance), *cells))
    return ["## Tasks", "\n".join(lines), " ".join(_about_tasks(view))]


def forms_section(evaluation: Evaluation) -> list[str]:
    """What the cut, distillation and few bits cost and brought; nothing where there were none."""
    view = forms_view(evaluation)
    if view is None:
        return []
    heads = ("parameters", "on disk", "peak memory", "prefill", "decode", "KL", "agreement")
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in view.rows:
        taken = [row.bytes_on_disk, row.memory, row.prefill, row.decode]
        if row.same_size:
            taken = [Cell(row.same_size), *[Cell('"')] * 3]
        name = f"{row.label} ({row.note})" if row.note else row.label
        lines.append(_line(name, Cell(row.parameters), *taken, row.kl, row.agreement))
    said = escaped(" ".join([*view.sentences, view.note, "Speeds are in tokens a second."]))
    return ["## Step by step", "\n".join(lines), said]


def economy_section(evaluation: Evaluation) -> list[str]:
    """Size and speed; nothing if neither is known."""
    sizes = size_rows(evaluation)
    speeds = speed_rows(evaluation.speed) if evaluation.speed else []
    if not sizes and not speeds:
        return []
    lines = ["| | teacher | student | student ÷ teacher |", "|---|---:|---:|---:|"]
    lines += [_line(row.label, row.teacher, row.student, row.ratio) for row in sizes]
    for at in speeds:
        for row in at.rows:
            label = f"{row.label}, batch {at.batch}"
            lines.append(_line(label, row.teacher, row.student, row.ratio))
    parts = ["## Size and speed", "\n".join(lines)]
    if evaluation.speed:
        where = f"{evaluation.speed.device} with {evaluation.speed.threads} threads"
        parts.append(f"Speeds on {escaped(where)}; in brackets quartiles over rounds.")
    return parts


def escaped(text: str) -> str:
    """As Markdown, on one line, that means the letters it shows and links nothing."""
    flat = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", one_line(text).replace("&", "&amp;"))
    return re.sub(r"(?i)(https?|ftp|www|mailto)(?=[:.])", r"\1<!-- -->", flat)


def _about_tasks(view: TasksView) -> list[str]:
    said = ["In brackets 95 % intervals over items."]
    for row in view.rows:
        against = row.versus["teacher"]
        if against.p:
            text = (
                f"{row.name}: {against.difference.line} against the teacher, McNemar {against.p}."
            )
            said.append(escaped(text))
    said += [escaped(f"Not said is {refusal}.") for refusal in view.refusals]
    return said


def _line(label: str, *cells: Cell) -> str:
    return f"| {escaped(label)} | {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(cell: Cell) -> str:
    return escaped(cell.line) if cell.value else ABSENT
