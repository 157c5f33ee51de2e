"""What the student in few bits costs and is worth, beside the student, as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from nexus.report.fidelity import DIVERGENCES
from nexus.report.words import (
    Cell,
    cell,
    count,
    plain,
    short_count,
    signed,
    size_on_disk,
)
from nexus.results import (
    Estimate,
    Evaluation,
    OverRounded,
    Quality,
    QuantizedResult,
    Rates,
    Speed,
    SpeedAt,
)


@dataclass(frozen=True)
class FewRow:
    """One quantity of the student, of its form in few bits, and what lies between them; then of
    the same after training, and what that brought."""

    label: str
    note: str
    student: Cell
    few: Cell
    change: Cell
    distilled: Cell = Cell()
    brought: Cell = Cell()


@dataclass(frozen=True)
class FewBits:
    """The section of the report."""

    name: str
    scheme: str
    rows: list[FewRow]
    notes: list[str]
    distilled: str = ""
    """What the student is called that was trained in few bits; nothing if none was."""


def few_bits_view(evaluation: Evaluation) -> FewBits | None:
    """The section; nothing if the run quantised nothing."""
    found = evaluation.quantized
    if found is None:
        return None
    rows = [*_size(evaluation, found), *_quality(evaluation, found), *_speed(found.speed)]
    name = found.distilled.name if found.distilled else ""
    return FewBits(found.name, found.scheme, rows, _notes(found), name)


def few_bits_sentences(evaluation: Evaluation) -> list[str]:
    """The same in a sentence for each student in few bits; none if the run quantised nothing."""
    found = evaluation.quantized
    said = []
    for each in (found, found and found.distilled):
        if each is None or each.to_student is None:
            continue
        kl, agreement = each.to_student.forward_kl, each.to_student.agreement
        parts = [
            f"KL {_line(cell(kl))} nats a token from the student",
            f"{_line(cell(agreement))} agreement",
        ]
        if each.perplexity_ratio:
            parts.append(f"{_line(cell(each.perplexity_ratio))} its perplexity")
        over = each.over_rounded.to_student.get("forward_kl") if each.over_rounded else None
        if over:
            parts.append(f"{_line(signed(over))} nats beside rounding alone")
        said.append(f"{each.name}: {', '.join(parts)}.")
    return said


def _line(shown: Cell) -> str:
    return f"{shown.value} ({shown.interval})" if shown.interval else shown.value


def _size(evaluation: Evaluation, found: QuantizedResult) -> list[FewRow]:
    student = evaluation.size.get("student")
    whole, part = student and student.bytes_on_disk, found.size.bytes_on_disk
    rows = []
    if part:
        ratio = Cell(f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%") if whole else Cell()
        its = Cell(size_on_disk(whole)) if whole else Cell()
        types = f"{student.dtype} and {found.size.dtype}" if student else found.size.dtype
        after = found.distilled.size.bytes_on_disk if found.distilled else None
        cells = (its, Cell(size_on_disk(part)), ratio)
        rows.append(
            FewRow("On disk", types, *cells, Cell(size_on_disk(after)) if after else Cell())
        )
    if found.speed and (memory := found.speed.memory_gib):
        note = "loading and decoding, alone, in bfloat16"
        whole_gib, part_gib = memory.get("teacher"), memory.get("student")
        rows.append(FewRow("Memory", note, _gib(whole_gib), _gib(part_gib), _ratio(memory)))
    return rows


def _quality(evaluation: Evaluation, found: QuantizedResult) -> list[FewRow]:
    own, beside = found.to_teacher, found.to_student
    if own is None or beside is None or evaluation.heldout is None:
        return []
    trained, after = evaluation.heldout.trained, found.distilled
    over = (after.over_rounded if after else None) or OverRounded()
    rows = [
        FewRow(
            f"{label}, beside the teacher",
            note,
            cell(_of(trained, name)),
            cell(_of(own, name)),
            _signed(found.change.get(name)),
            cell(_of(after.to_teacher if after else None, name)),
            _signed(over.to_teacher.get(name)),
        )
        for name, label, note in DIVERGENCES[:1] + DIVERGENCES[-1:]
    ]
    for name, label, note in (
        ("forward_kl", "KL(student ‖ few bits)", "nats a token, T = 1"),
        ("agreement", "Top-1 agreement", "with the student"),
    ):
        after_it = cell(_of(after.to_student if after else None, name))
        brought = _signed(over.to_student.get(name))
        rows.append(FewRow(label, note, Cell(), cell(_of(beside, name)), Cell(), after_it, brought))
    rows.append(
        FewRow(
            "Perplexity",
            "over the student's own" + ("; last: over rounding's" if after else ""),
            cell(trained.perplexity),
            cell(own.perplexity),
            cell(found.perplexity_ratio),
            cell(after.to_teacher.perplexity) if after and after.to_teacher else Cell(),
            cell(over.perplexity_ratio),
        )
    )
    return rows


def _speed(speed: Speed | None) -> list[FewRow]:
    if speed is None or speed.teacher is None:
        return []
    rows = []
    timed: list[Speed | SpeedAt] = [speed, *speed.batches]
    for at in timed:
        if at.teacher is None:
            continue
        for label, name in (("Prefill, tokens/s", "prefill"), ("Decode, tokens/s", "decode")):
            rows.append(
                FewRow(
                    f"{label}, batch {at.batch}",
                    "both in bfloat16",
                    cell(_rate(at.teacher, name)),
                    cell(_rate(at.student, name)),
                    cell(at.speedup.get(name)),
                )
            )
    return rows


def _notes(found: QuantizedResult) -> list[str]:
    notes = [
        f"{found.layers} layers with {plain(found.bits_per_weight)} bits a weight, scales included."
    ]
    for why in dict.fromkeys(found.kept.values()):
        names = [name for name, its in found.kept.items() if its == why]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
        notes.append(f"Not in few bits, since {why}: {shown}.")
    if found.distilled and (training := found.distilled.training):
        learnt = "scales alone" if training.parameters == "scales" else "weights and scales"
        notes.append(
            f"{found.distilled.name} was trained within its bits for {count(training.steps)} steps "
            f"({short_count(training.tokens)} tokens): {learnt}, by KL to the student as it was. "
            "It is as large and as fast as the one that was rounded."
        )
    if found.speed:
        notes += [f"Not measured: {reason}." for reason in found.speed.left_out]
    return notes


def _of(quality: Quality | None, name: str) -> Estimate | None:
    if quality is None:
        return None
    return quality.forward_kl if name == "forward_kl" else quality.agreement


def _signed(change: Estimate | None) -> Cell:
    return signed(change) if change else Cell()


def _rate(rates: Rates, name: str) -> Estimate:
    return rates.prefill if name == "prefill" else rates.decode


def _gib(size: float | None) -> Cell:
    return Cell() if size is None else Cell(f"{plain(size)}\N{NO-BREAK SPACE}GiB")


def _ratio(memory: dict[str, float]) -> Cell:
    whole, part = memory.get("teacher"), memory.get("student")
    if not whole or part is None:
        return Cell()
    return Cell(f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%")
