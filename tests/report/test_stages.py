"""The table of stages."""

from __future__ import annotations

from nexus.report.stages import spent_flops, stage_rows
from nexus.results import Estimate, Quality, StageResult


def stage(name: str, kl: float, teacher_flops: float | None = 1e9) -> StageResult:
    def of(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.1, high=value + 0.1, n=9, unit="nats")

    def quality(value: float) -> Quality:
        return Quality(
            forward_kl=of(value), nll=of(3.0), perplexity=Estimate(value=20.0, n=9),
            agreement=Estimate(value=0.5, n=9, unit="share"),
        )  # fmt: skip

    return StageResult(
        name=name, teacher="original", parameters=2_000_000, steps=3, tokens=3000,
        student_flops=2e9, teacher_flops=teacher_flops, begun=quality(kl), ended=quality(kl / 2),
        cost_of_cut={"forward_kl": of(0.25)}, change={"forward_kl": of(-kl / 2)},
    )  # fmt: skip


def test_each_stage_has_a_row_and_the_sums_are_of_all() -> None:
    one, two, total = stage_rows([stage("one", 1.0), stage("two", 2.0)])
    assert (one.name, two.name, total.name) == ("one", "two", "all")
    assert two.begun.value == "2.00" and two.ended.value == "1.00"
    assert two.cost_of_cut.value.startswith("+") and two.change.value.startswith("\N{MINUS SIGN}")
    assert (one.flops, total.flops) == ("3.00\N{NO-BREAK SPACE}B", "6.00\N{NO-BREAK SPACE}B")
    assert total.tokens == "6.00\N{NO-BREAK SPACE}k"


def test_what_is_not_known_is_no_sum() -> None:
    unknown = stage("one", 1.0, teacher_flops=None)
    assert spent_flops(unknown) is None
    assert stage_rows([unknown, stage("two", 1.0)])[-1].flops == "–"
    assert stage_rows([]) == []
