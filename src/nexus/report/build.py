"""`report.html`: one file that needs no network and no script, and says what it does not know.

It is made from whatever a run directory holds: `recipe.yaml` (required), `metrics.jsonl`,
`evaluation.json` (see `nexus.results`), `check.json`, `findings.json` and `environment.json`. Of
the last, `data` (the facts of each source and their total) and `notices` (a list of sentences) have
sections of their own; `changes` are among the notices; everything else is listed under its dotted
name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nexus import durable, findings
from nexus.proofs import Check
from nexus.redaction import redacted
from nexus.report.charts import quality_charts, reliability
from nexus.report.checks import checks_view
from nexus.report.cuts import cut_views
from nexus.report.data import data_view
from nexus.report.diagnosis import diagnose
from nexus.report.drawing import Plot
from nexus.report.economy import size_rows, speed_note, speed_rows
from nexus.report.few_bits import few_bits_view
from nexus.report.fidelity import calibration_note, exposure, gaps, heldout_rows, measured_on
from nexus.report.forms import forms_view
from nexus.report.plots import curves
from nexus.report.reading import RunFiles, read_run
from nexus.report.stages import stage_rows
from nexus.report.summary import headline, teacher_name, verdict
from nexus.report.tasks import tasks_view
from nexus.report.words import Cell, cell, count, duration, plain, short_count
from nexus.results import Estimate, Evaluation
from nexus.visible import visible

FILE_NAME = "report.html"


@dataclass(frozen=True)
class Tile:
    """A number to be seen first."""

    value: str
    label: str
    note: str = ""


def build(run: Path) -> Path:
    """Write the report of `run` into it, replacing an earlier one, and return where it is.

    Raises:
        UsageError: if `run` is not a run directory, or a file in it is damaged.
    """
    path = run / FILE_NAME
    page = render(read_run(run))
    durable.write(path, page)
    return path


def render(files: RunFiles) -> str:
    """The page as text. Everything that models, users or files wrote is escaped, shows what hides
    in it, and holds no secrets."""
    pages = Environment(
        loader=PackageLoader("nexus.report", "page"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evaluation = files.evaluation or Evaluation()
    return pages.get_template("template.html").render(
        title=f"{teacher_name(files.recipe)}, distilled",
        name=files.path.resolve().name,
        verdict=verdict(files.evaluation),
        sentences=headline(files),
        tiles=_tiles(evaluation),
        symptoms=diagnose(files),
        notices=_notices(files),
        plots=[_Figure(plot) for plot in curves(files.steps, files.evaluation)],
        training=_training(files),
        samples=evaluation.samples,
        checks=checks_view(files.check),
        data=data_view(files.environment.get("data")),
        recipe=files.recipe_text,
        environment=_environment(files.environment),
        fingerprints=_fingerprints(files.environment),
        commands=_commands(files),
        empty=Cell(),
        count=count,
        percent=_percent,
        **_measured(evaluation),
    )


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    """The parts that come from evaluation.json alone."""
    heldout, rollouts, speed = evaluation.heldout, evaluation.rollouts, evaluation.speed
    calibration = reliability(evaluation)
    return {
        "rows": heldout_rows(heldout) if heldout else [],
        "measured_on": measured_on(heldout) if heldout else "",
        "calibration_note": calibration_note(heldout) if heldout else "",
        "calibration": _Figure(calibration) if calibration else None,
        "gaps": gaps(evaluation),
        "rollouts": rollouts,
        "exposure": exposure(rollouts, heldout) if rollouts else [],
        "tasks": tasks_view(evaluation.tasks),
        "quality": [_Figure(plot) for plot in quality_charts(evaluation)],
        "stages": stage_rows(evaluation.stages),
        "forms": forms_view(evaluation),
        "cuts": cut_views(evaluation),
        "sizes": size_rows(evaluation),
        "few_bits": few_bits_view(evaluation),
        "speeds": speed_rows(speed) if speed else [],
        "speed_note": speed_note(speed) if speed else "",
    }


def _shown(value: Any) -> Any:
    """Whatever is written into the page; only drawings are markup."""
    return value if isinstance(value, Markup) else visible(redacted(str(value)))


def _percent(share: float) -> float:
    """Where a share lies on a bar that ends at 0 and 100 %."""
    return round(100 * min(1.0, max(0.0, share)), 2)


class _Figure:
    """A plot whose drawing is ours and therefore markup; its words stay text."""

    def __init__(self, plot: Plot) -> None:
        self.title, self.caption, self.svg = plot.title, plot.caption, Markup(plot.svg)


def _tiles(evaluation: Evaluation) -> list[Tile]:
    tiles = []
    if heldout := evaluation.heldout:
        if heldout.trained.agreement:
            shown = cell(heldout.trained.agreement)
            tiles.append(Tile(shown.value, "agrees with the teacher", shown.interval))
        shown, teachers = cell(heldout.trained.perplexity), heldout.teacher
        note = f"teacher {cell(teachers.perplexity).value}" if teachers else ""
        tiles.append(Tile(shown.value, "perplexity", note))
    kept = [
        ratio.value
        for task in evaluation.tasks.values()
        if isinstance(ratio := task.retention.get("above_chance"), Estimate)
    ]
    if kept:
        value = f"{100 * median(kept):.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")
        note = f"median of {len(kept)} tasks" if kept[1:] else "on 1 task"
        tiles.append(Tile(value, "of the teacher's skill above chance", note))
    teacher, student = evaluation.size.get("teacher"), evaluation.size.get("student")
    if teacher and student:
        share = student.parameters / teacher.parameters
        note = f"of the teacher's {short_count(teacher.parameters)}"
        tiles.append(Tile(f"{100 * share:.0f}\N{NO-BREAK SPACE}%", "parameters", note))
    if evaluation.speed and "decode" in evaluation.speed.speedup:
        rate = evaluation.speed.student.decode.value
        shown = cell(evaluation.speed.speedup["decode"])
        tiles.append(Tile(shown.value, "decoding speed", f"{plain(rate)} tokens/s"))
    return tiles


def _training(files: RunFiles) -> str:
    """One line under the curves' title."""
    if not files.steps:
        return ""
    seconds = sum(step.get("seconds") or 0.0 for step in files.steps)
    peaks = [step["peak_memory_gib"] for step in files.steps if step.get("peak_memory_gib")]
    said = f"{count(len(files.steps))} steps"
    if seconds:
        said += f" in {duration(seconds)}"
    if peaks:
        said += f", {plain(max(peaks))} GiB of memory at most"
    said += ". Faint: each step. Bold: running mean."
    if any("heldout_kl" in step for step in files.steps):
        said += (
            " Diamonds: the beginning of the held-out text, so that the last one need not meet "
            "what was measured on all of it."
        )
    return said


def _is_checked(check: Check | None) -> bool:
    """Whether the check says already that held-out documents were trained on."""
    doubts = [proof for proof in check.proofs if proof.outcome != "proved"] if check else []
    return any(proof.group == "data" and "held-out" in proof.name for proof in doubts)


def _notices(files: RunFiles) -> list[str]:
    notices = [str(notice) for notice in files.environment.get("notices") or []]
    notices += [str(finding) for finding in findings.read(files.path)]
    missing = {
        "metrics.jsonl (no training yet)": files.steps,
        "evaluation.json (not evaluated yet)": files.evaluation,
        "environment.json (the machine is not known)": files.environment,
    }
    notices += [f"This run has no {what}." for what, found in missing.items() if not found]
    data = data_view(files.environment.get("data"))
    if data and data.warning and not _is_checked(files.check):
        notices.append(data.warning)
    if files.unreadable_steps:
        notices.append(f"Lines of metrics.jsonl that could not be read: {files.unreadable_steps}.")
    return notices


def _commands(files: RunFiles) -> list[str]:
    """From beside the run directory: the same run again, and this page again."""
    name = files.path.resolve().name
    recipe = shlex.quote(f"{name}/recipe.yaml")
    output = shlex.quote(f"output=../{name}-again")
    return [f"nexus distill {recipe} --set {output}", f"nexus report {shlex.quote(name)}"]


def _fingerprints(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = environment.get("fingerprints")
    return list(_flat(found)) if isinstance(found, Mapping) else []


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    apart = ("data", "notices", "changes", "fingerprints")
    rest = {name: part for name, part in environment.items() if name not in apart}
    return list(_flat(rest))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        match value:
            case Mapping():
                yield from _flat(value, f"{prefix}{name}.")
            case bool() | None:
                yield f"{prefix}{name}", {True: "yes", False: "no", None: "–"}[value]
            case int():
                yield f"{prefix}{name}", str(value) if "seed" in str(name) else count(value)
            case list() | tuple():
                yield f"{prefix}{name}", ", ".join(str(part) for part in value) or "–"
            case _:
                yield f"{prefix}{name}", str(value)
