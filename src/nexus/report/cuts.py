"""How each student was cut: what was proved of it, and how the shapes of a search fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus.proofs import CutRecord
from nexus.report.checks import SIGNS, ProofRow, proof_row
from nexus.report.words import ABSENT, plain, short_count
from nexus.results import Evaluation


@dataclass(frozen=True)
class SearchRow:
    """One shape, and its KL with its place at each rung that it reached."""

    shape: str
    is_winner: bool
    values: list[str]


@dataclass(frozen=True)
class SearchView:
    """Shapes down, the best first; rungs across."""

    columns: list[str]
    rows: list[SearchRow]
    note: str


@dataclass(frozen=True)
class CutView:
    """One cut."""

    stage: str
    target: str
    search: SearchView | None
    urgent: list[ProofRow]
    rest: list[ProofRow]


def cut_views(evaluation: Evaluation) -> list[CutView]:
    """A view for each cut; none where nothing was."""
    return [_cut(record) for record in evaluation.cuts]


def _cut(record: CutRecord) -> CutView:
    order = list(SIGNS)
    rows = [
        proof_row(proof)
        for proof in sorted(record.proofs, key=lambda proof: order.index(proof.outcome))
    ]
    worrying = ("failed", "doubtful")
    return CutView(
        stage=record.stage,
        target=_target(record.target or {}),
        search=_search(record.search) if record.search else None,
        urgent=[row for row in rows if row.outcome in worrying],
        rest=[row for row in rows if row.outcome not in worrying],
    )


def _target(target: Mapping[str, Any]) -> str:
    wanted, taken, whole = (target.get(name) for name in ("wanted", "taken", "whole"))
    if wanted is None or taken is None:
        return ""
    said = f"Asked for {_amount(wanted)} {target.get('unit', '')}, which became {_amount(taken)}"
    return f"{said}, out of {_amount(whole)}." if whole is not None else f"{said}."


def _search(found: Mapping[str, Any]) -> SearchView | None:
    candidates, rungs = found.get("candidates") or [], found.get("rungs") or []
    if not candidates or not rungs:
        return None
    shapes = _shapes(candidates)
    reached = {n: [rung["divergence"].get(str(n)) for rung in rungs] for n in range(len(shapes))}

    def place(number: int) -> tuple[int, float]:
        known = [value for value in reached[number] if value is not None]
        return -len(known), known[-1] if known else 0.0

    rows = [
        SearchRow(
            shapes[number],
            number == found.get("winner"),
            [_at(rung, number) for rung in rungs],
        )
        for number in sorted(reached, key=place)
    ]
    trained = [f"{short_count(rung['tokens'])} tokens" for rung in rungs]
    columns = [
        f"KL after {text}" if rung["tokens"] else "KL at once"
        for rung, text in zip(rungs, trained, strict=True)
    ]
    return SearchView(columns, rows, _stability(found.get("spearman") or []))


def _shapes(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each shape by the sizes in which it differs from any other."""
    names = [
        name for name in candidates[0] if len({str(one.get(name)) for one in candidates}) > 1
    ] or list(candidates[0])
    return [
        ", ".join(f"{one.get(name)} {name.replace('_', ' ')}" for name in names)
        for one in candidates
    ]


def _at(rung: Mapping[str, Any], number: int) -> str:
    value, rank = rung["divergence"].get(str(number)), rung.get("rank", {}).get(str(number))
    if value is None:
        return ABSENT
    return plain(value) if rank is None else f"{plain(value)} (no. {rank})"


def _stability(spearman: Sequence[Mapping[str, Any]]) -> str:
    """How far the order of one rung was that of the next and of the last."""
    said = "KL(teacher ‖ shape) in nats a token on text that none was trained on, and its place."
    for number, one in enumerate(spearman, 1):
        after, last = (one.get(name) for name in ("next", "last"))
        if after is None:
            continue
        said += f" The order of column {number} and of the next: Spearman {_correlation(after)}"
        is_next_last = number == len(spearman)
        said += "." if is_next_last or last is None else f"; of the last: {_correlation(last)}."
    return f"{said} Over the shapes that both columns have; of two shapes it is 1 or −1."


def _correlation(value: int | float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _amount(value: int | float) -> str:
    return short_count(value) if value >= 1e3 else plain(value)
