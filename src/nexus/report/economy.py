"""How big and how fast teacher and student are, as rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nexus.report.words import Cell, cell, plain, short_count, size_on_disk
from nexus.results import Estimate, Evaluation, Rates, Size, Speed, SpeedAt

Number = int | float
Show = Callable[[Number], str]


@dataclass(frozen=True)
class Pair:
    """One quantity of teacher and student, and the student's over the teacher's."""

    label: str
    note: str
    teacher: Cell
    student: Cell
    ratio: Cell


@dataclass(frozen=True)
class AtBatch:
    """All speeds at one batch size."""

    batch: int
    rows: list[Pair]


def size_rows(evaluation: Evaluation) -> list[Pair]:
    """Parameters, bytes, arithmetic and memory; only what is known of either."""
    teacher = evaluation.size.get("teacher")
    student = evaluation.size.get("student", evaluation.size.get("trained"))
    if teacher is None and student is None:
        return []

    def row(label: str, note: str, read: Callable[[Size], Number | None], show: Show) -> Pair:
        its, students = (None if of is None else read(of) for of in (teacher, student))
        return _pair(label, note, its, students, show)

    types = list(dict.fromkeys(size.dtype for size in (teacher, student) if size is not None))
    rows = [
        row("Parameters", "", lambda of: of.parameters, short_count),
        row("… without embeddings", "", lambda of: of.parameters_without_embeddings, short_count),
        row("On disk", " and ".join(types), lambda of: of.bytes_on_disk, _disk),
        row("FLOPs per token", "of a forward pass", lambda of: of.flops_per_token, short_count),
    ]
    if evaluation.speed:
        memory = evaluation.speed.memory_gib
        student_memory = memory.get("student", memory.get("trained"))
        note = f"decoding at batch {evaluation.speed.batch}, alone"
        rows.append(_pair("Memory", note, memory.get("teacher"), student_memory, _gib))
    return [row for row in rows if row.teacher != Cell() or row.student != Cell()]


def speed_rows(speed: Speed) -> list[AtBatch]:
    """Reading, writing and the wait for the first token, by batch size."""
    found: dict[int, Speed | SpeedAt] = {speed.batch: speed}
    found |= {at.batch: at for at in speed.batches}
    return [
        AtBatch(batch, _rates(at.teacher, at.student, at.speedup))
        for batch, at in sorted(found.items())
    ]


def speed_note(speed: Speed) -> str:
    """How the speeds were measured."""
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    n = speed.student.decode.n
    rounds = f"medians of {n} rounds with quartiles" if n > 1 else "one round only"
    note = (
        f"Speeds: {speed.prompt_tokens} prompt tokens, {speed.new_tokens} written greedily with a "
        f"KV cache, on {'CPU' if speed.device == 'cpu' else speed.device} with {threads}; {rounds}"
        f"{', teacher and student timed in turns' if speed.teacher else ''}. "
        f"The process held {plain(speed.peak_memory_gib)} GiB at most."
    )
    if speed.teacher and speed.teacher.dtype != speed.student.dtype:
        note += (
            f" The teacher ran in {speed.teacher.dtype} and the student in {speed.student.dtype}: "
            "the difference in speed is not of size alone."
        )
    for reason in speed.left_out:
        note += f" Not measured: {reason}."
    return note


def _pair(
    label: str, note: str, teacher: Number | None, student: Number | None, show: Show
) -> Pair:
    its, students = (Cell() if of is None else Cell(show(of)) for of in (teacher, student))
    ratio = _share(student, teacher) if teacher and student else Cell()
    return Pair(label, note, its, students, ratio)


def _share(part: Number, whole: Number) -> Cell:
    return Cell(f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%")


def _rates(teacher: Rates | None, student: Rates, speedup: Mapping[str, Estimate]) -> list[Pair]:
    models = (teacher, student) if teacher else (student,)
    note = ", ".join(dict.fromkeys(rates.dtype for rates in models))

    def row(label: str, name: str, rate: Callable[[Rates], Estimate | None]) -> Pair:
        its = cell(rate(teacher)) if teacher else Cell()
        return Pair(label, note, its, cell(rate(student)), cell(speedup.get(name)))

    rows = [
        row("Prefill, tokens/s", "prefill", lambda of: of.prefill),
        row("Decode, tokens/s", "decode", lambda of: of.decode),
        row("Time to first token", "first_token", lambda of: of.first_token),
    ]
    return [row for row in rows if row.teacher != Cell() or row.student != Cell()]


def _disk(size: Number) -> str:
    return size_on_disk(int(size))


def _gib(size: Number) -> str:
    return f"{plain(size)}\N{NO-BREAK SPACE}GiB"
