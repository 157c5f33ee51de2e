"""The data of a run: what each source gave, and what was left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from nexus.report.words import count

ALWAYS = ("rows", "examples", "tokens", "target_tokens", "truncated", "skipped")
"""Shown of every source, none or many."""

IF_ANY = ("split", "dropped", "escaped")
"""Shown where some source has any."""

HEADINGS = {"examples": "documents", "target_tokens": "targets", "dropped": "too long"}


@dataclass(frozen=True)
class DataView:
    """Sources down, quantities across, and what holds for all of them."""

    columns: list[str]
    sources: list[tuple[str, str, list[str]]]
    """Name, split, and a text for each column."""
    totals: list[str]
    """Sentences."""
    skipped: list[str]
    """The rows that could not be used, with place and reason, as far as they were listed."""


def data_view(summary: Mapping[str, Any] | None) -> DataView | None:
    """From the data's own summary (`nexus.data.corpus.DataSummary` as JSON)."""
    if not summary:
        return None
    sources = [
        (split, source) for split in ("train", "heldout") for source in summary.get(split) or ()
    ]
    names = [
        name
        for name in (*ALWAYS, *IF_ANY)
        if name in ALWAYS or any(source.get(name) for _, source in sources)
    ]
    return DataView(
        columns=[HEADINGS.get(name, name) for name in names],
        sources=[
            (_name(source), _split(split, source), [_shown(source.get(name)) for name in names])
            for split, source in sources
        ],
        totals=_totals(summary),
        skipped=[
            ": ".join(str(part) for part in fault)
            for _, source in sources
            for fault in source.get("skipped_rows") or ()
        ],
    )


def _name(source: Mapping[str, Any]) -> str:
    """Without its folder, which says nothing to anybody else."""
    return PurePath(str(source.get("source") or "–")).name


def _split(split: str, source: Mapping[str, Any]) -> str:
    place = "held out" if split == "heldout" else "training"
    return f"{place}, streamed: counted as far as read" if source.get("streamed") else place


def _shown(value: Any) -> str:
    return count(value) if isinstance(value, int) else "–"


def _totals(summary: Mapping[str, Any]) -> list[str]:
    said = []
    if rows := summary.get("rows"):
        said.append(f"{count(rows)} packed training rows.")
    if (efficiency := summary.get("packing_efficiency")) is not None:
        said.append(f"{100 * efficiency:.1f} % of their positions hold text.")
    if (shared := summary.get("contaminated")) is not None:
        said.append(contamination(shared))
    return said


def contamination(documents: int) -> str:
    """Held-out documents that were trained on too make every held-out number too good."""
    match documents:
        case 0:
            return "No held-out document is a training document."
        case 1:
            return "1 held-out document is a training document too: held-out numbers flatter."
        case _:
            return (
                f"{count(documents)} held-out documents are training documents too: held-out "
                "numbers flatter."
            )
