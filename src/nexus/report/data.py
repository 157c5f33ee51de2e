"""The data of a run: what each source gave, and what was left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nexus.report.words import ABSENT, count, plain

ALWAYS = ("rows", "examples", "tokens", "target_tokens", "truncated", "skipped")
"""Shown of every source, none or many."""

IF_ANY = ("split", "dropped", "escaped")
"""Shown where some source has any."""

HEADINGS = {"examples": "documents", "target_tokens": "targets", "dropped": "too long"}


TOTAL = "total"
CONTAMINATED = "held-out documents also trained on"


@dataclass(frozen=True)
class DataView:
    """Sources down, quantities across, and what holds for all of them."""

    columns: list[str]
    sources: list[tuple[str, str, list[str]]]
    """Name, split, and a text for each column."""
    totals: list[tuple[str, str]]
    skipped: list[str]
    """The rows that could not be used, with place and reason, as far as they were listed."""

    @property
    def warning(self) -> str:
        """Held-out documents that were trained on too make every held-out number too good."""
        shared = dict(self.totals).get(CONTAMINATED, "0")
        if shared == "0":
            return ""
        return f"Held-out documents that were trained on too, which flatters the student: {shared}."


def data_view(summary: Mapping[str, Any] | None) -> DataView | None:
    """From `data` in environment.json: the facts of each `split: source`, and of them in total."""
    if not summary:
        return None
    sources = {name: facts for name, facts in summary.items() if name != TOTAL}
    columns = [
        name
        for name in (*ALWAYS, *IF_ANY)
        if name in ALWAYS or any(facts.get(name) for facts in sources.values())
    ]
    return DataView(
        columns=[HEADINGS.get(name, name) for name in columns],
        sources=[
            (*_named(label, facts), [_shown(facts.get(name)) for name in columns])
            for label, facts in sources.items()
        ],
        totals=[(name, _shown(value)) for name, value in (summary.get(TOTAL) or {}).items()],
        skipped=[str(row) for facts in sources.values() for row in facts.get("skipped_rows") or ()],
    )


def _named(label: str, facts: Mapping[str, Any]) -> tuple[str, str]:
    """The source without its folder, which says nothing to anybody else; and its split in words."""
    split, _, source = label.partition(": ")
    place = "held out" if split == "heldout" else "training"
    if facts.get("streamed"):
        place += ", streamed: counted as far as read"
    return PurePath(source).name or label, place


def _shown(value: Any) -> str:
    match value:
        case int():
            return count(value)
        case float():
            return plain(value)
        case _:
            return ABSENT
