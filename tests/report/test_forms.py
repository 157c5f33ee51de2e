"""The table of what each step cost and brought back."""

from __future__ import annotations

from nexus.report.card_tables import forms_section
from nexus.report.forms import form_sentences, forms_view
from nexus.results import Estimate, Evaluation, Form

SPACE = "\N{NO-BREAK SPACE}"


def nats(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.25, high=value + 0.125, n=9, unit="nats")


def share(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.02, high=value + 0.01, n=9, unit="share")


def rate(value: float) -> Estimate:
    return Estimate(value=value, n=3, unit="tokens/s")


def form(kind: str, kl: float = 1.0, change: float | None = None, **more: object) -> Form:
    changes = {} if change is None else {"forward_kl": nats(change), "agreement": share(-change)}
    values = {"parameters": 50_000_000, "forward_kl": nats(kl), "change": changes, **more}
    return Form.parse({"kind": kind, **values}, where="forms")


def evaluation(stage: str = "") -> Evaluation:
    taken = {
        "bytes_on_disk": 200_000_000, "memory_gib": 0.5, "prefill": rate(900), "decode": rate(30),
        "dtype": "float32",
    }  # fmt: skip
    return Evaluation(
        forms=(
            form("teacher", forward_kl=None, **taken),
            form("cut", 2.0, 2.0, same_size=True, stage=stage),
            form("trained", 0.5, -1.5, stage=stage, **taken),
            form("few_bits", 0.75, 0.25, name="student-int4", **taken),
            form("few_bits_trained", 0.625, 0.125, name="student-int4-distilled", same_size=True),
        )
    )


def test_every_model_has_a_row_and_what_was_not_measured_a_dash() -> None:
    view = forms_view(evaluation())
    assert view is not None
    teacher, cut, trained, few, after = view.rows
    assert [row.label for row in view.rows] == [
        "teacher", "as cut", "distilled", "in few bits", "trained in few bits"
    ]  # fmt: skip
    assert teacher.kl.value == "–" and teacher.parameters == f"50.0{SPACE}M"
    assert (cut.same_size, trained.same_size, after.same_size) == (
        "as distilled",
        "",
        "as in few bits",
    )
    assert trained.bytes_on_disk.value == f"200{SPACE}MB" and trained.decode.value == "30.0"
    assert few.note == "student-int4, float32"
    assert [row.is_result for row in view.rows] == [False, False, True, True, True]


def test_costs_are_said_as_costs_and_gains_as_gains() -> None:
    (said,) = form_sentences(evaluation())
    dash = f"{SPACE}–{SPACE}"
    assert said.startswith(f"The cut cost 2.00 (1.75{dash}2.12) nats of KL and 200.0{SPACE}pt")
    assert f"distillation brought back 1.50 (1.38{dash}1.75) nats of KL" in said
    assert f"few bits cost 0.250 (0.000{dash}0.375) nats of KL and 25.0{SPACE}pt" in said
    assert "cost \N{MINUS SIGN}" not in said and said.endswith(".")


def test_each_stage_has_a_sentence() -> None:
    one, few = form_sentences(evaluation("thin"))
    assert one.startswith("thin: the cut cost") and few.startswith("Few bits cost")


def test_the_card_holds_the_same_table() -> None:
    _, table, said = forms_section(evaluation())
    head, _, *rows = table.splitlines()
    assert len(rows) == 5 and {row.count("|") for row in rows} == {head.count("|")}
    assert "distillation brought back" in said
    assert forms_section(Evaluation()) == [] and forms_view(Evaluation()) is None


def test_it_says_that_speed_was_not_measured() -> None:
    unmeasured = Evaluation(forms=(form("teacher"), form("trained")))
    view = forms_view(unmeasured)
    assert view is not None and "were not measured" in view.note


def test_training_on_text_alone_is_not_called_distillation() -> None:
    teacher, cut, trained, *_ = evaluation().forms
    alone = Evaluation(forms=(teacher, cut, trained.model_copy(update={"taught": False})))
    view = forms_view(alone)
    assert view is not None
    assert [row.label for row in view.rows] == ["teacher", "as cut", "trained on text alone"]
    assert view.rows[1].same_size == "as trained on text alone"
    (said,) = form_sentences(alone)
    assert "training on text alone brought back 1.50" in said and "distil" not in said
