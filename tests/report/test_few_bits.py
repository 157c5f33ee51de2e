"""The table of what few bits cost."""

from __future__ import annotations

from nexus.report.few_bits import few_bits_sentences, few_bits_view
from nexus.results import (
    Estimate,
    Evaluation,
    Heldout,
    OverRounded,
    Quality,
    QuantizedResult,
    QuantizedTraining,
    Rates,
    Size,
    Speed,
)


def number(value: float, unit: str = "") -> Estimate:
    return Estimate(value=value, n=3, unit=unit)  # type: ignore[arg-type]


def quality(kl: float, agreement: float, perplexity: float) -> Quality:
    return Quality(
        forward_kl=number(kl, "nats"),
        agreement=number(agreement, "share"),
        nll=number(3.0, "nats"),
        perplexity=number(perplexity),
        entropy=number(2.0, "nats"),
    )


def rates(prefill: float, decode: float) -> Rates:
    return Rates(prefill=number(prefill), decode=number(decode), dtype="bfloat16")


def evaluation() -> Evaluation:
    size = Size(parameters=10, parameters_without_embeddings=8, bytes_on_disk=4000, dtype="float32")
    timed = Speed(
        teacher=rates(900, 20), student=rates(800, 30), speedup={"decode": number(1.5, "×")},
        device="cpu", threads=1, prompt_tokens=8, new_tokens=4, seconds=1, peak_memory_gib=1,
        memory_gib={"teacher": 2.0, "student": 1.0},
    )  # fmt: skip
    few = QuantizedResult(
        name="student-int4", scheme="int4 (groups of 64)", layers=7, bits_per_weight=4.25,
        kept={"lm_head": "it is the head", **{f"a{n}": "its rows are odd" for n in range(8)}},
        size=size.model_copy(update={"bytes_on_disk": 1000, "dtype": "int4"}),
        to_teacher=quality(0.75, 0.5, 24.0), to_student=quality(0.25, 0.8, 24.0),
        change={"forward_kl": number(0.25, "nats"), "agreement": number(-0.1, "share")},
        perplexity_ratio=number(1.2, "×"), speed=timed,
    )  # fmt: skip
    trained = quality(0.5, 0.6, 20.0)
    heldout = Heldout(documents=3, tokens=9, bytes=30, trained=trained)
    return Evaluation(heldout=heldout, size={"student": size}, quantized=few)


def test_each_quantity_stands_beside_the_students() -> None:
    view = few_bits_view(evaluation())
    assert view is not None
    rows = {row.label: row for row in view.rows}
    assert rows["On disk"].change.value == "25\N{NO-BREAK SPACE}%"
    assert rows["Memory"].change.value == "50\N{NO-BREAK SPACE}%"
    beside = rows["KL(teacher ‖ student), beside the teacher"]
    assert (beside.student.value, beside.few.value) == ("0.500", "0.750")
    assert beside.change.value.startswith("+0.25")
    assert rows["Top-1 agreement, beside the teacher"].change.value.endswith("pt")
    assert rows["KL(student ‖ few bits)"].few.value == "0.250"
    assert rows["Perplexity"].change.value == "1.20×"
    assert rows["Decode, tokens/s, batch 1"].change.value == "1.50×"


def test_what_is_not_in_few_bits_is_named_with_the_reason() -> None:
    view = few_bits_view(evaluation())
    assert view is not None
    assert "4.25 bits" in view.notes[0]
    assert any("it is the head: lm_head." in one for one in view.notes)
    assert any("a0, a1, a2, a3, a4, a5 and 2 more" in one for one in view.notes)


def test_a_run_without_has_no_section() -> None:
    assert few_bits_view(Evaluation()) is None
    bare = evaluation().model_copy(update={"heldout": None})
    view = few_bits_view(bare)
    assert view is not None and "Perplexity" not in {row.label for row in view.rows}


def with_distilled() -> Evaluation:
    plain = evaluation()
    assert plain.quantized is not None
    brought = {"forward_kl": number(-0.125, "nats"), "agreement": number(0.05, "share")}
    after = plain.quantized.model_copy(
        update={
            "name": "student-int4-distilled", "speed": None,
            "to_teacher": quality(0.625, 0.55, 21.0), "to_student": quality(0.125, 0.85, 21.0),
            "training": QuantizedTraining(
                parameters="scales", steps=20, tokens=4000, learning_rate=1e-3
            ),
            "over_rounded": OverRounded(
                to_teacher=brought, to_student=brought, perplexity_ratio=number(0.875, "×")
            ),
        }
    )  # fmt: skip
    return plain.model_copy(
        update={"quantized": plain.quantized.model_copy(update={"distilled": after})}
    )


def test_training_in_few_bits_stands_beside_rounding() -> None:
    view = few_bits_view(with_distilled())
    assert view is not None and view.distilled == "student-int4-distilled"
    rows = {row.label: row for row in view.rows}
    beside = rows["KL(student ‖ few bits)"]
    assert (beside.few.value, beside.distilled.value) == ("0.250", "0.125")
    assert beside.brought.value.endswith("0.125")
    assert rows["Top-1 agreement"].brought.value.startswith("+5.0")
    assert rows["Perplexity"].brought.value == "0.88×"
    assert rows["On disk"].distilled.value == rows["On disk"].few.value
    assert any("scales alone, by KL" in note for note in view.notes)
    plain = few_bits_view(evaluation())
    assert plain is not None and not plain.distilled


def test_the_terminal_says_both_in_a_sentence_each() -> None:
    one, other = few_bits_sentences(with_distilled())
    assert one.startswith("student-int4: KL 0.250 nats") and "beside rounding" not in one
    assert other.startswith("student-int4-distilled: KL 0.125 nats")
    assert "nats beside rounding alone" in other
    assert few_bits_sentences(Evaluation()) == []
