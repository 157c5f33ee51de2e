"""What a run amounts to, said once: the page, the model card and the terminal show these words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from statistics import median
from typing import Any, Literal

from nexus.report.reading import RunFiles, taught_by_corrected
from nexus.report.words import cell, count, short_count
from nexus.results import Estimate, Evaluation, Heldout, TaskResult

Tone = Literal["good", "bad", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """Whether training did what it was for: a sign, and the words that stand for it."""

    sign: str
    words: str
    tone: Tone


def verdict(evaluation: Evaluation | None) -> Verdict:
    """What the interval of the change says; where there is none, the tasks' differences."""
    if evaluation is None:
        return Verdict("○", "Not evaluated yet", "unknown")
    change = evaluation.heldout.change.get("forward_kl") if evaluation.heldout else None
    if change is not None and change.low is not None and change.high is not None:
        if change.low > 0 and taught_by_corrected(evaluation):
            return Verdict("○", "It followed a corrected teacher away from the original", "unknown")
        if change.low > 0:
            return Verdict("▼", "Training moved it away from the teacher", "bad")
        if change.high < 0:
            return Verdict("▲", "Training brought it closer to the teacher", "good")
        return Verdict("●", "No difference detected", "unknown")
    better, worse = moved(evaluation.tasks)
    if better or worse:
        words = f"{len(better)} tasks better, {len(worse)} worse than untrained"
        return Verdict("▲" if better else "▼", words, "good" if not worse else "bad")
    return Verdict("○", "Nothing to compare with", "unknown")


def headline(files: RunFiles) -> list[str]:
    """Sentences: what was asked, what came out, what it is worth."""
    said = [asked(files)]
    evaluation = files.evaluation
    if evaluation is None or (evaluation.heldout is None and not evaluation.tasks):
        return [*said, "It has not been evaluated yet, so nothing can be said of what is left."]
    if evaluation.heldout:
        said += _fidelity(evaluation.heldout)
        said += _worth(evaluation.heldout)
    said += _skills(evaluation.tasks)
    return said + _economy(evaluation)


def teacher_name(recipe: dict[str, Any]) -> str:
    """The teacher's name without the place where it lies."""
    teacher = recipe.get("teacher") or {}
    where = str(teacher.get("gguf_file") or teacher.get("model") or teacher.get("kind") or "")
    return PurePath(where).name or "the teacher"


def student_kind(recipe: dict[str, Any]) -> str:
    """What the recipe asked the student to be."""
    student = recipe.get("student") or {}
    match student.get("kind"):
        case "layers":
            pick = student.get("pick")
            layers = len(pick) if isinstance(pick, list) else student.get("count", "some")
            return f"a student made of {layers} of the layers of {teacher_name(recipe)}"
        case "pretrained":
            name = PurePath(str(student.get("model"))).name
            return f"{name} as a student of {teacher_name(recipe)}"
        case "scratch":
            return f"a student of {teacher_name(recipe)} from random weights"
        case kind:
            return f"a {kind or 'small'} student of {teacher_name(recipe)}"


def asked(files: RunFiles) -> str:
    """One sentence: the student that was asked for, and how long it was trained."""
    what = student_kind(files.recipe)
    if not files.steps:
        return f"Asked for {what}. Training has not started."
    targets = sum(step.get("targets", 0) for step in files.steps)
    return (
        f"Asked for {what}, trained for {count(len(files.steps))} steps "
        f"on {short_count(targets)} target tokens."
    )


def moved(tasks: dict[str, TaskResult]) -> tuple[list[str], list[str]]:
    """Tasks at which training made the student better and worse, by their paired intervals."""
    better, worse = [], []
    for name, task in tasks.items():
        comparison = task.comparisons.get("trained - untrained")
        if comparison is None:
            continue
        low, high = comparison.difference.low, comparison.difference.high
        if low is not None and low > 0:
            better.append(name)
        if high is not None and high < 0:
            worse.append(name)
    return better, worse


def _fidelity(heldout: Heldout) -> list[str]:
    trained, said = heldout.trained, []
    documents = f"On {count(heldout.documents)} held-out documents"
    if trained.agreement:
        said.append(
            f"{documents}, its most likely next token is the teacher's too in "
            f"{_with_interval(trained.agreement, '95 % interval ')} of all positions."
        )
    against = (
        f" against the teacher's {cell(heldout.teacher.perplexity).value}"
        if heldout.teacher
        else ""
    )
    said.append(
        f"Its perplexity is {cell(trained.perplexity).value}{against}"
        f"{_times(heldout.perplexity_ratio.get('trained'))}."
    )
    return said


def _worth(heldout: Heldout) -> list[str]:
    change = heldout.change.get("forward_kl")
    gap = heldout.gap_closed.get("forward_kl")
    if change is None or change.low is None or change.high is None:
        return []
    if change.low > 0:
        return [f"Training made it worse: KL from the teacher rose by {_with_interval(change)}."]
    if change.high >= 0:
        return ["Whether training brought it closer to the teacher cannot be told from this data."]
    if isinstance(gap, Estimate):
        return [f"Training closed {_with_interval(gap)} of its distance (KL) from the teacher."]
    return []


def _skills(tasks: dict[str, TaskResult]) -> list[str]:
    """How much of what the teacher can do above guessing is left."""
    kept = [
        ratio.value
        for task in tasks.values()
        if isinstance(ratio := task.retention.get("above_chance"), Estimate)
    ]
    said = []
    if kept:
        spread = f"from {_percent(min(kept))} to {_percent(max(kept))} over " if kept[1:] else "on "
        said.append(
            f"Of the teacher's score above chance it keeps {_percent(median(kept))}"
            f"{' in the median, ' if kept[1:] else ' '}{spread}{_tasks(len(kept))}."
        )
    better, worse = moved(tasks)
    if better or worse:
        said.append(
            f"Training made it better at {_tasks(len(better))} and worse at {len(worse)}, "
            "as far as 95 % intervals tell."
        )
    return said


def _economy(evaluation: Evaluation) -> list[str]:
    parts = []
    teacher, student = evaluation.size.get("teacher"), evaluation.size.get("student")
    if teacher and student:
        share = student.parameters / teacher.parameters
        parts.append(
            f"has {100 * share:.0f} % of the teacher's parameters "
            f"({short_count(student.parameters)} of {short_count(teacher.parameters)})"
        )
    if evaluation.speed and "decode" in evaluation.speed.speedup:
        factor = evaluation.speed.speedup["decode"]
        parts.append(f"writes {cell(factor).value} as fast")
    return [f"It {' and '.join(parts)}."] if parts else []


def _with_interval(estimate: Estimate, name: str = "") -> str:
    shown = cell(estimate)
    return f"{shown.value} ({name}{shown.interval})" if shown.interval else shown.value


def _times(ratio: Estimate | None) -> str:
    return f", {_with_interval(ratio)}" if ratio else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _tasks(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"
