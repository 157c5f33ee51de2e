"""What each stage of a student that becomes smaller cost and was worth, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexus.report.words import ABSENT, Cell, cell, short_count, signed
from nexus.results import Estimate, Quality, StageResult


@dataclass(frozen=True)
class StageRow:
    """One stage."""

    name: str
    teacher: str
    parameters: str
    tokens: str
    flops: str
    """Spent by student and teacher together."""
    begun: Cell
    """KL to the run's teacher right after the cut,"""
    ended: Cell
    """and after training."""
    cost_of_cut: Cell
    change: Cell
    perplexity: Cell
    agreement: Cell


def stage_rows(stages: Sequence[StageResult]) -> list[StageRow]:
    """A row a stage, and one of sums."""
    if not stages:
        return []
    rows = [
        StageRow(
            stage.name,
            stage.teacher,
            short_count(stage.parameters),
            short_count(stage.tokens),
            _flops(stage),
            cell(_kl(stage.begun)),
            cell(_kl(stage.ended)),
            _signed(stage.cost_of_cut.get("forward_kl")),
            _signed(stage.change.get("forward_kl")),
            cell(stage.ended.perplexity if stage.ended else None),
            cell(stage.ended.agreement if stage.ended else None),
        )
        for stage in stages
    ]
    spent = [spent_flops(stage) for stage in stages]
    total = sum(each for each in spent if each is not None)
    flops = short_count(total) if None not in spent else ABSENT
    tokens = short_count(sum(stage.tokens for stage in stages))
    rows.append(StageRow("all", "", "", tokens, flops, *[Cell("")] * 6))
    return rows


def spent_flops(stage: StageResult) -> float | None:
    """What student and teacher computed; nothing where either cannot be told."""
    if stage.student_flops is None or stage.teacher_flops is None:
        return None
    return stage.student_flops + stage.teacher_flops


def _flops(stage: StageResult) -> str:
    spent = spent_flops(stage)
    return ABSENT if spent is None else short_count(spent)


def _kl(quality: Quality | None) -> Estimate | None:
    return quality.forward_kl if quality else None


def _signed(difference: Estimate | None) -> Cell:
    return Cell() if difference is None else signed(difference)
