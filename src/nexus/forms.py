"""Forms: the way from the teacher to the student in few bits, as the report's one table of it.

What cutting cost, what distillation brought back and what few bits cost, from what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus.milestones import needs_teacher
from nexus.recipe.schema import Recipe
from nexus.results import (
    Estimate,
    Evaluation,
    Form,
    Quality,
    QuantizedResult,
    Rates,
    Speed,
)

SHOWN = ("forward_kl", "agreement")


def forms(recipe: Recipe, evaluation: Evaluation) -> tuple[Form, ...]:
    """The models that a run came by; none if it neither cuts nor quantises anything."""
    student = evaluation.size.get("student")
    if not (is_cut(recipe) or recipe.quantize or recipe.teacher.scheme) or student is None:
        return ()
    teacher = evaluation.size.get("teacher")
    found: list[Form] = []
    if teacher is not None:
        own = _taken(evaluation.speed, "teacher")
        own |= {"parameters": teacher.parameters, "bytes_on_disk": teacher.bytes_on_disk}
        found.append(Form(kind="teacher", **own))
    if evaluation.stages:
        found += _stages(recipe, evaluation)
    else:
        found += _single(recipe, evaluation)
    return (*found, *_few_bits(evaluation.quantized))


def is_cut(recipe: Recipe) -> bool:
    """Whether any student of the run is cut out of a larger model."""
    cuts = [recipe.student, *(stage.student for stage in recipe.stages)]
    return any(cut is not None and cut.kind in ("pruned", "layers") for cut in cuts)


def _single(recipe: Recipe, evaluation: Evaluation) -> Iterator[Form]:
    heldout, student = evaluation.heldout, evaluation.size["student"]
    cut = is_cut(recipe)
    yield Form(
        kind="cut" if cut else "untrained", parameters=student.parameters, same_size=True,
        **_worth(heldout.untrained if heldout else None, from_teacher=cut),
    )  # fmt: skip
    yield Form(
        kind="trained", parameters=student.parameters, bytes_on_disk=student.bytes_on_disk,
        taught=any(map(needs_teacher, recipe.all_stages)), **_taken(evaluation.speed, "student"),
        **_worth(heldout.trained if heldout else None, heldout.change if heldout else {}),
    )  # fmt: skip


def _stages(recipe: Recipe, evaluation: Evaluation) -> Iterator[Form]:
    """Of each stage the student that it began with, if it is another, and what it left."""
    last = len(evaluation.stages) - 1
    cuts = [recipe.student, *(stage.student for stage in recipe.stages[1:])]
    for number, (stage, cut) in enumerate(zip(evaluation.stages, cuts, strict=True)):
        made: dict[str, Any] = {"stage": stage.name, "parameters": stage.parameters}
        if cut is not None:
            first, sliced = number == 0, cut.kind in ("pruned", "layers")
            worth = _worth(stage.begun, stage.cost_of_cut, from_teacher=first and sliced)
            yield Form(kind="cut" if sliced else "untrained", same_size=True, **made, **worth)
        timed = evaluation.speed if number == last else stage.speed
        yield Form(
            kind="trained", **made, bytes_on_disk=stage.bytes_on_disk,
            same_size=number < last and not _is_cut_next(cuts, number),
            taught=stage.teacher != "none",
            **_taken(timed, "student"), **_worth(stage.ended, stage.change),
        )  # fmt: skip


def _is_cut_next(cuts: list[Any], number: int) -> bool:
    return cuts[number + 1] is not None


def _few_bits(found: QuantizedResult | None) -> Iterator[Form]:
    for each in (found, found and found.distilled):
        if found is None or each is None:
            return
        trained = each is not found
        yield Form(
            kind="few_bits_trained" if trained else "few_bits", name=each.name,
            parameters=each.size.parameters, bytes_on_disk=each.size.bytes_on_disk,
            same_size=trained, **({} if trained else _taken(each.speed, "student")),
            **_worth(each.to_teacher, each.change),
        )  # fmt: skip


def _taken(speed: Speed | None, name: str) -> dict[str, Any]:
    """Memory and speed of one of two models that were timed in turns."""
    rates: Rates | None = None if speed is None else getattr(speed, name)
    if speed is None or rates is None:
        return {}
    return {
        "memory_gib": speed.memory_gib.get(name), "prefill": rates.prefill,
        "decode": rates.decode, "dtype": rates.dtype,
    }  # fmt: skip


def _worth(
    quality: Quality | None, change: dict[str, Estimate] | None = None, from_teacher: bool = False
) -> dict[str, Any]:
    """Closeness to the teacher, and by how much it changed.

    Args:
        quality: what was measured, if it was.
        change: from the form before.
        from_teacher: whether that is the teacher itself, whose KL is 0 and agreement 1.
    """
    if quality is None:
        return {}
    told = {"forward_kl": quality.forward_kl, "agreement": quality.agreement}
    if from_teacher:
        lost = {"forward_kl": quality.forward_kl, "agreement": _less_one(quality.agreement)}
        change = {name: value for name, value in lost.items() if value is not None}
    kept = {name: value for name, value in (change or {}).items() if name in SHOWN}
    return {**told, "change": kept}


def _less_one(share: Estimate | None) -> Estimate | None:
    if share is None:
        return None
    ends = {
        name: None if end is None else end - 1
        for name, end in (("low", share.low), ("high", share.high))
    }
    return share.model_copy(update={"value": share.value - 1, **ends})
