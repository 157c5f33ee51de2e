"""The way from the teacher to the student in few bits, as rows of one table and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexus.report.words import Cell, cell, plain, short_count, size_on_disk
from nexus.results import Estimate, Evaluation, Form, Speed

KL = "forward_kl"
LABELS = {
    "teacher": "teacher",
    "cut": "as cut",
    "untrained": "before training",
    "trained": "distilled",
    "few_bits": "in few bits",
    "few_bits_trained": "trained in few bits",
}
BROUGHT = {
    "cut": "the cut cost",
    "trained": "distillation brought back",
    "few_bits": "few bits cost",
    "few_bits_trained": "after training in them they cost",
}
"""What lies between a form and the one that it was made of; nothing before an untrained one."""


@dataclass(frozen=True)
class FormRow:
    """One model: what it takes, and what it is worth."""

    label: str
    note: str
    is_result: bool
    """Whether the run ends with it, and it is no step on the way."""
    parameters: str
    same_size: str
    """In place of bytes, memory and speed that are those of another row."""
    bytes_on_disk: Cell
    memory: Cell
    prefill: Cell
    decode: Cell
    kl: Cell
    agreement: Cell


@dataclass(frozen=True)
class FormsView:
    """The section of the report."""

    rows: list[FormRow]
    sentences: list[str]
    note: str


def forms_view(evaluation: Evaluation) -> FormsView | None:
    """The section; nothing if the run neither cut nor quantised anything."""
    forms = evaluation.forms
    if not forms:
        return None
    last = max(number for number, form in enumerate(forms) if form.kind == "trained")
    rows = [_row(forms, number, number >= last) for number in range(len(forms))]
    return FormsView(rows, form_sentences(evaluation), _note(evaluation))


def form_sentences(evaluation: Evaluation) -> list[str]:
    """What each step cost or brought back, in KL and in agreement, where it was measured."""
    said: dict[str, list[str]] = {}
    for form in evaluation.forms:
        kl, agreement = (form.change.get(name) for name in (KL, "agreement"))
        if form.kind not in BROUGHT or kl is None:
            continue
        what = BROUGHT[form.kind] if form.taught else "training on text alone brought back"
        cost = form.kind != "trained"
        amounts = [f"{_amount(kl, cost)} nats of KL"]
        if agreement is not None:
            amounts.append(f"{_amount(agreement, not cost)} of agreement")
        said.setdefault(form.stage, []).append(f"{what} {' and '.join(amounts)}")
    return [
        (f"{stage}: " if stage else "") + _sentence("; ".join(parts), bool(stage))
        for stage, parts in said.items()
    ]


def _row(forms: Sequence[Form], number: int, is_result: bool) -> FormRow:
    form = forms[number]
    label = _label(form)
    return FormRow(
        label=f"{form.stage}: {label}" if form.stage else label,
        note=", ".join(part for part in (form.name, form.dtype) if part),
        is_result=is_result,
        parameters=short_count(form.parameters),
        same_size=_same_as(forms, number) if form.same_size else "",
        bytes_on_disk=Cell(size_on_disk(form.bytes_on_disk)) if form.bytes_on_disk else Cell(),
        memory=Cell() if form.memory_gib is None else Cell(_gib(form.memory_gib)),
        prefill=cell(form.prefill),
        decode=cell(form.decode),
        kl=cell(form.forward_kl),
        agreement=cell(form.agreement),
    )


def _same_as(forms: Sequence[Form], number: int) -> str:
    """The row whose bytes, memory and speed are this one's, by its shape."""
    form = forms[number]
    if form.kind == "few_bits_trained":
        return f"as {LABELS['few_bits']}"
    later = next(
        (one for one in forms[number + 1 :] if one.kind == "trained" and not one.same_size), form
    )
    stage = f"{later.stage}: " if later.stage and later.stage != form.stage else ""
    return f"as {stage}{_label(later)}"


def _label(form: Form) -> str:
    return LABELS[form.kind] if form.taught else "trained on text alone"


def _note(evaluation: Evaluation) -> str:
    said = (
        "KL is KL(teacher\N{NO-BREAK SPACE}‖\N{NO-BREAK SPACE}model) in nats a token and agreement "
        "that of the most likely token, on the held-out text and beside the run's teacher, whoever "
        "taught a stage; what lies between two rows is paired by document. Memory is that of "
        "loading and decoding alone, at the first batch size, as speed is."
    )
    timed = {stage.name: stage.speed for stage in evaluation.stages if stage.speed}
    if timed:
        said += " Each was timed in turns with the teacher, at a moment of its own:"
        ends = {evaluation.stages[-1].name: evaluation.speed}
        paired = [f"{name} {_times(speed)}" for name, speed in {**timed, **ends}.items() if speed]
        said += f" {', '.join(paired)}."
    few = evaluation.quantized
    if few and few.speed and few.speed.teacher:
        said += f" In few bits it is {_times(few.speed)} as the student in "
        said += f"{few.speed.teacher.dtype}, timed in turns."
    if all(form.decode is None for form in evaluation.forms):
        said += " Speed and memory were not measured."
    return said


def _times(speed: Speed) -> str:
    """How many times as fast as the model that it was timed in turns with."""
    ratios = [
        f"{cell(speed.speedup[name]).value} as fast in {what}"
        for name, what in (("prefill", "reading"), ("decode", "writing"))
        if name in speed.speedup
    ]
    return " and ".join(ratios)


def _amount(difference: Estimate, is_gain: bool) -> str:
    """So much more, or so much less, of what is meant to grow or to fall; shares in points."""
    if not is_gain:
        low, high = difference.low, difference.high
        turned = {
            "value": -difference.value,
            "low": None if high is None else -high,
            "high": None if low is None else -low,
        }
        difference = difference.model_copy(update=turned)
    shown = cell(difference)
    value = shown.value.replace("%", "pt")
    return f"{value} ({shown.interval})" if shown.interval else value


def _sentence(text: str, after_name: bool) -> str:
    return f"{text if after_name else text[:1].upper() + text[1:]}."


def _gib(size: float) -> str:
    return f"{plain(size)}\N{NO-BREAK SPACE}GiB"
