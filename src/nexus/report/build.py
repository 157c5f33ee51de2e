"""`report.html`: one file that needs no network and no script, and says what it does not know.

It is made from whatever a run directory holds: `recipe.yaml` (required), `metrics.jsonl`,
`evaluation.json` (see `nexus.results`) and `environment.json`. Of the last, `data` (the facts of
each source and their total) and `notices` (a list of sentences) have sections of their own;
`changes` are among the notices;
everything else is listed under its dotted name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nexus import durable, findings
from nexus.redaction import redacted
from nexus.report.data import data_view
from nexus.report.plots import Plot, curves
from nexus.report.reading import RunFiles, read_run
from nexus.report.summary import comparison, gaps, headline, teacher_name
from nexus.report.words import cell, count, duration, plain, short_count
from nexus.results import Evaluation, Speed
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
        loader=PackageLoader("nexus.report", ""),
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
        sentences=headline(files),
        tiles=_tiles(evaluation),
        rows=comparison(evaluation),
        gaps=gaps(evaluation),
        heldout=evaluation.heldout,
        speed_note=_speed_note(evaluation.speed),
        plots=[_Figure(plot) for plot in curves(files.steps, files.evaluation)],
        training=_training(files),
        samples=evaluation.samples,
        data=data_view(files.environment.get("data")),
        recipe=files.recipe_text,
        environment=_environment(files.environment),
        notices=_notices(files),
        count=count,
        percent=_percent,
    )


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
        shown, goal = cell(heldout.trained.perplexity), cell(heldout.teacher.perplexity)
        tiles.append(Tile(shown.value, "perplexity", f"teacher {goal.value}"))
    teacher, student = evaluation.size.get("teacher"), evaluation.size.get("student")
    if teacher and student:
        share = student.parameters / teacher.parameters
        note = f"of the teacher's {short_count(teacher.parameters)}"
        tiles.append(Tile(f"{100 * share:.0f} %", "parameters", note))
    if evaluation.speed and "decode" in evaluation.speed.speedup:
        rate = evaluation.speed.student.decode.value
        shown = cell(evaluation.speed.speedup["decode"])
        tiles.append(Tile(shown.value, "decoding speed", f"{plain(rate)} tokens/s"))
    return tiles


def _speed_note(speed: Speed | None) -> str:
    if speed is None:
        return ""
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    n = speed.student.decode.n
    rounds = f"medians of {n} rounds with quartiles" if n > 1 else "one round only"
    note = (
        f"Speeds: batch {speed.batch}, {speed.prompt_tokens} prompt tokens, {speed.new_tokens} "
        f"written greedily with a KV cache, on {speed.device} with {threads}; {rounds}, "
        "teacher and student timed in turns. "
        f"The process held {plain(speed.peak_memory_gib)} GiB at most."
    )
    if speed.teacher.dtype != speed.student.dtype:
        note += (
            f" The teacher ran in {speed.teacher.dtype} and the student in {speed.student.dtype}: "
            "the difference in speed is not of size alone."
        )
    return note


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
    return f"{said}. Faint: each step. Bold: running mean."


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
    if data and data.warning:
        notices.append(data.warning)
    if files.unreadable_steps:
        notices.append(f"Lines of metrics.jsonl that could not be read: {files.unreadable_steps}.")
    return notices


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rest = {
        name: part
        for name, part in environment.items()
        if name not in ("data", "notices", "changes")
    }
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
