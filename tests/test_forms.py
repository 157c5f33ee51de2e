"""The way from the teacher to the student in few bits, step by step."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from nexus.forms import forms, is_cut
from nexus.recipe.schema import Recipe
from nexus.results import (
    Estimate,
    Evaluation,
    Form,
    Heldout,
    Quality,
    QuantizedResult,
    Rates,
    Size,
    Speed,
    StageResult,
)

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def nats(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.1, high=value + 0.1, n=9, unit="nats")


def share(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.02, n=9, unit="share")


def quality(kl: float, agreement: float) -> Quality:
    return Quality(
        forward_kl=nats(kl), agreement=share(agreement), nll=nats(3),
        perplexity=Estimate(value=20, n=9),
    )  # fmt: skip


def speed(decode: float, dtype: str = "float32") -> Speed:
    def rates(value: float) -> Rates:
        each = Estimate(value=value, n=3, unit="tokens/s")
        return Rates(prefill=each, decode=each, dtype=dtype)

    return Speed(
        teacher=rates(10), student=rates(decode), device="cpu", threads=1, prompt_tokens=8,
        new_tokens=4, seconds=1, peak_memory_gib=1, memory_gib={"teacher": 2.0, "student": 1.0},
    )  # fmt: skip


def size(parameters: int) -> Size:
    return Size(
        parameters=parameters, parameters_without_embeddings=1, bytes_on_disk=4 * parameters,
        dtype="float32",
    )  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    values = {**SMALL["RECIPE"], "student": {"kind": "pruned", "target": 0.5}, **changes}
    return Recipe.parse(values, where="recipe")


def few_bits(**changes: Any) -> QuantizedResult:
    return QuantizedResult(
        name="student-int4", scheme="int4", layers=7, kept={}, bits_per_weight=4.5, size=size(50),
        to_teacher=quality(0.75, 0.55), to_student=quality(0.2, 0.8), speed=speed(40, "bfloat16"),
        change={"forward_kl": nats(0.25), "agreement": share(-0.1)},
    ).model_copy(update=changes)  # fmt: skip


def evaluation(**changes: Any) -> Evaluation:
    change = {"forward_kl": nats(-1.5), "agreement": share(0.25), "nll": nats(-1)}
    heldout = Heldout(
        documents=9, tokens=90, bytes=300, untrained=quality(2.0, 0.4), trained=quality(0.5, 0.65),
        change=change,
    )  # fmt: skip
    sizes = {"teacher": size(100), "student": size(50)}
    return Evaluation(heldout=heldout, size=sizes, speed=speed(20)).model_copy(update=changes)


def test_a_cut_costs_what_distillation_brings_back_and_few_bits_cost_again() -> None:
    found = forms(recipe(quantize={"scheme": "int4"}), evaluation(quantized=few_bits()))
    assert [form.kind for form in found] == ["teacher", "cut", "trained", "few_bits"]
    teacher, cut, trained, few = found
    assert (teacher.decode, teacher.memory_gib) == (speed(20).teacher.decode, 2.0)  # type: ignore[union-attr]
    assert cut.change["forward_kl"] == nats(2.0) and cut.same_size and cut.decode is None
    lost = cut.change["agreement"]
    assert (lost.value, lost.low, lost.high) == pytest.approx((-0.6, -0.61, -0.58))
    assert trained.change.keys() == {"forward_kl", "agreement"}
    assert trained.bytes_on_disk == 200 and trained.memory_gib == 1.0
    assert few.dtype == "bfloat16" and few.decode is not None and few.decode.value == 40
    steps = [form.change["forward_kl"].value for form in (cut, trained, few)]
    assert few.forward_kl is not None and sum(steps) == pytest.approx(few.forward_kl.value)


def test_training_in_few_bits_is_a_row_as_large_as_rounding() -> None:
    distilled = few_bits(name="student-int4-distilled", speed=None)
    found = forms(recipe(), evaluation(quantized=few_bits(distilled=distilled)))
    assert (found[-1].kind, found[-1].same_size) == ("few_bits_trained", True)
    assert found[-1].decode is None and found[-1].name == "student-int4-distilled"


def test_each_stage_says_what_it_began_and_ended_with() -> None:
    def stage(name: str, parameters: int, **changes: Any) -> StageResult:
        return StageResult(
            name=name, teacher="original", parameters=parameters, steps=1, tokens=9,
            begun=quality(1.0, 0.5), ended=quality(0.5, 0.6), cost_of_cut={"forward_kl": nats(0.7)},
            change={"forward_kl": nats(-0.5)}, bytes_on_disk=parameters, **changes,
        )  # fmt: skip

    task = {"objectives": SMALL["RECIPE"]["objectives"], "train": SMALL["RECIPE"]["train"]}
    smaller = {"kind": "pruned", "shape": {"layers": 1}}
    stages = [
        {"name": "one", **task},
        {"name": "two", **task},
        {"name": "three", "student": smaller, **task},
    ]
    values = {"stages": stages, "objectives": None, "train": None}
    measured = (stage("one", 80), stage("two", 80, speed=speed(15)), stage("three", 50))
    found = forms(recipe(**values), evaluation(stages=measured))
    assert [(form.stage, form.kind) for form in found[1:]] == [
        ("one", "cut"), ("one", "trained"), ("two", "trained"), ("three", "cut"),
        ("three", "trained"),
    ]  # fmt: skip
    one, two, last = (form for form in found if form.kind == "trained")
    assert one.same_size and two.decode and two.decode.value == 15
    assert last.decode is not None and last.decode.value == 20
    costs = [form.change["forward_kl"].value for form in found if form.kind == "cut"]
    assert costs == [1.0, 0.7]  # from the teacher itself, and from the student of stage two


def test_what_neither_cuts_nor_rounds_has_no_such_way() -> None:
    given = recipe(student={"kind": "pretrained", "model": "student"})
    assert not is_cut(given) and forms(given, evaluation()) == ()
    few = given.model_copy(update={"quantize": recipe(quantize={"scheme": "int4"}).quantize})
    assert [form.kind for form in forms(few, evaluation())] == ["teacher", "untrained", "trained"]
    assert not forms(few, evaluation())[1].change


def test_what_was_not_measured_is_absent() -> None:
    found = forms(recipe(), evaluation(speed=None, heldout=None))
    assert {(form.decode, form.memory_gib, form.forward_kl) for form in found} == {(None,) * 3}
    assert [form.bytes_on_disk for form in found] == [400, None, 200]
    assert Form.parse(found[0].model_dump(mode="json"), where="forms") == found[0]


def test_whoever_learnt_from_the_text_alone_was_not_taught() -> None:
    task, output = {"kind": "task"}, {"kind": "output"}
    for terms, taught in (([output], True), ([task, output], True), ([task], False)):
        *_, trained = forms(recipe(objectives=terms), evaluation())
        assert (trained.kind, trained.taught) == ("trained", taught)
