"""What a run amounts to, said once: the page, the model card and the terminal show these words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nexus.report.reading import RunFiles
from nexus.report.words import ABSENT, Cell, cell, count, short_count, size_on_disk
from nexus.results import Estimate, Evaluation, Heldout, Quality, Rates, Refused, Size

GAPS = {
    "forward_kl": "KL(teacher ‖ student)",
    "reverse_kl": "KL(student ‖ teacher)",
    "nll": "Loss on the text",
}


@dataclass(frozen=True)
class Row:
    """One measure of the comparison."""

    label: str
    note: str
    teacher: Cell
    untrained: Cell
    trained: Cell


@dataclass(frozen=True)
class Gap:
    """How much of a gap training closed, or why that cannot be said."""

    label: str
    share: Estimate | None
    reason: str

    @property
    def cell(self) -> Cell:
        return cell(self.share)


def comparison(evaluation: Evaluation) -> list[Row]:
    """Teacher, untrained and trained student, measure by measure; only what was measured."""
    rows = _heldout_rows(evaluation.heldout) if evaluation.heldout else []
    rows += _size_rows(evaluation)
    if evaluation.speed:
        teacher, student = evaluation.speed.teacher, evaluation.speed.student
        rows += [
            _speed_row("Prefill", teacher, student, teacher.prefill, student.prefill),
            _speed_row("Decode", teacher, student, teacher.decode, student.decode),
        ]
    return rows


def gaps(evaluation: Evaluation) -> list[Gap]:
    """The share of the way from the untrained student to the teacher that training covered."""
    if evaluation.heldout is None:
        return []
    return [
        Gap(label, None, found.reason) if isinstance(found, Refused) else Gap(label, found, "")
        for name, label in GAPS.items()
        if (found := evaluation.heldout.gap_closed.get(name)) is not None
    ]


def headline(files: RunFiles) -> list[str]:
    """Sentences: what was asked, what came out, what it is worth."""
    said = [asked(files)]
    evaluation = files.evaluation
    if evaluation is None or evaluation.heldout is None:
        return [*said, "It has not been evaluated yet, so nothing can be said of what is left."]
    said += _fidelity(evaluation.heldout)
    said += _worth(evaluation.heldout)
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


def _fidelity(heldout: Heldout) -> list[str]:
    trained, said = heldout.trained, []
    documents = f"On {count(heldout.documents)} held-out documents"
    if trained.agreement:
        said.append(
            f"{documents}, its most likely next token is the teacher's too in "
            f"{_with_interval(trained.agreement, '95 % interval ')} of all positions."
        )
    said.append(
        f"Its perplexity is {cell(trained.perplexity).value} against the teacher's "
        f"{cell(heldout.teacher.perplexity).value}{_times(heldout.perplexity_ratio.get('trained'))}."
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


def _heldout_rows(heldout: Heldout) -> list[Row]:
    def row(label: str, note: str, score: Callable[[Quality], Estimate | None]) -> Row:
        models = (heldout.teacher, heldout.untrained, heldout.trained)
        return Row(label, note, *(Cell() if m is None else cell(score(m)) for m in models))

    ratio = heldout.perplexity_ratio
    return [
        row("Perplexity", "lower is better", lambda scores: scores.perplexity),
        Row(
            "Perplexity, over the teacher's",
            "1 is as good",
            Cell("1×"),
            cell(ratio.get("untrained")),
            cell(ratio.get("trained")),
        ),
        row("KL(teacher ‖ student)", "nats a token, T = 1", lambda scores: scores.forward_kl),
        row("KL(student ‖ teacher)", "nats a token, T = 1", lambda scores: scores.reverse_kl),
        row("Top-1 agreement", "higher is better", lambda scores: scores.agreement),
        row("Bits per byte", "lower is better", lambda scores: scores.bits_per_byte),
    ]


def _size_rows(evaluation: Evaluation) -> list[Row]:
    models = (evaluation.size.get("teacher"), evaluation.size.get("student"))

    def row(label: str, show: Callable[[Size], str], note: str = "") -> Row:
        teacher, student = (Cell() if size is None else Cell(show(size)) for size in models)
        return Row(label, note, teacher, Cell(), student)

    if not any(models):
        return []
    dtypes = dict.fromkeys(size.dtype for size in models if size is not None)
    return [
        row("Parameters", lambda size: short_count(size.parameters)),
        row("… without embeddings", lambda size: short_count(size.parameters_without_embeddings)),
        row("On disk", _disk, " and ".join(dtypes)),
    ]


def _disk(size: Size) -> str:
    return ABSENT if size.bytes_on_disk is None else size_on_disk(size.bytes_on_disk)


def _speed_row(
    label: str, teacher: Rates, student: Rates, its: Estimate, students: Estimate
) -> Row:
    dtype = teacher.dtype if teacher.dtype == student.dtype else f"{teacher.dtype}, {student.dtype}"
    return Row(f"{label}, tokens/s", dtype, cell(its), Cell(), cell(students))
