"""The data and the proofs in the terminal: told by word and sign, and by colour only besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from nexus.checking.seen import Piece, Seen
from nexus.data.loader import Batches
from nexus.proofs import Check, Outcome, Proof
from nexus.redaction import redacted
from nexus.visible import one_line

SIGNS: dict[Outcome, tuple[str, str]] = {
    "proved": ("+", "green"),
    "failed": ("x", "bold red"),
    "doubtful": ("?", "yellow"),
    "skipped": ("-", "dim"),
}
"""By outcome its sign and its colour."""

TARGET = "bold cyan"
BAR = 40
"""Letters of the longest bar."""


def check_table(check: Check) -> Table:
    """What was tried, in its order and by group, with the remedy of what was not proved."""
    counts = [f"{count} {name}" for name in SIGNS if (count := _count(check, name))]
    table = Table(
        title="What was proved before training", title_justify="left",
        caption=f"{', '.join(counts)} · {check.seconds:.0f} s", caption_justify="left",
    )  # fmt: skip
    table.add_column("")
    table.add_column("outcome", no_wrap=True)
    table.add_column("what, and how it was decided")
    group = ""
    for proof in check.proofs:
        if proof.group != group and group:
            table.add_section()
        first = proof.group if proof.group != group else ""
        group = proof.group
        table.add_row(Text(_safe(first)), _outcome(proof), _said(proof))
    return table


def data_view(batches: Batches, seen: Seen, *, coloured: bool) -> RenderableType:
    """The first rows with their targets marked, lengths, sources and tasks.

    Args:
        batches: All of the data.
        seen: The first rows.
        coloured: Whether targets are told by colour; in [brackets] otherwise.
    """
    marks = "coloured" if coloured else "in [brackets]"
    parts: list[RenderableType] = [
        Text(f"The first documents; what the student is trained to say is {marks}", "bold")
    ]
    parts += [_document(number, pieces, coloured) for number, pieces in enumerate(seen.first, 1)]
    parts += [Text(), Text(f"Tokens of {seen.documents:,} documents", "bold")]
    parts += [Text(line) for line in histogram(seen.lengths)]
    parts += [Text(), _sources(batches)]
    if len(seen.tasks) > 1:
        told = (f"{name or '(none)'} {count:,}" for name, count in seen.tasks.items())
        parts.append(Text(f"Documents by task: {_safe(', '.join(told))}"))
    return Group(*parts, Text())


def as_json(check: Check, batches: Batches | None, seen: Seen | None) -> dict[str, Any]:
    """Everything that is printed, for programs."""
    values: dict[str, Any] = check.model_dump(mode="json")
    if batches is not None and seen is not None:
        values["data"] = {
            "rows": seen.rows,
            "documents": seen.documents,
            "tokens": seen.tokens,
            "targets": seen.targets,
            "rows_without_targets": seen.empty_rows,
            "lengths": [{"from": low, "to": high, "documents": count}
                        for low, high, count in bins(seen.lengths)],
            "tasks": dict(seen.tasks),
            "sources": list(_source_facts(batches)),
            "first": [[{"text": text, "target": flag} for text, flag in pieces]
                      for pieces in seen.first],
        }  # fmt: skip
    return values


def bins(lengths: Sequence[int], count: int = 8) -> list[tuple[int, int, int]]:
    """Equally wide ranges of lengths, each with the number of documents: from, to, how many."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths) + 1
    width = max(1, -(-(high - low) // count))
    edges = range(low, high + width, width)
    return [
        (start, stop - 1, sum(start <= length < stop for length in lengths))
        for start, stop in pairwise(edges)
    ]


def histogram(lengths: Sequence[int]) -> Iterator[str]:
    """One line a range of lengths, with a bar."""
    ranges = bins(lengths)
    most = max((count for *_, count in ranges), default=1)
    for low, high, count in ranges:
        bar = "#" * max(round(BAR * count / most), min(count, 1))
        yield f"{low:>7,} to {high:>7,}  {count:>7,}  {bar}".rstrip()


def show_on(console: Console, batches: Batches, seen: Seen) -> None:
    """Print the data view, with colours where the console has any."""
    console.print(data_view(batches, seen, coloured=console.color_system is not None))


def _document(number: int, pieces: Sequence[Piece], coloured: bool) -> Text:
    line = Text(f"{number}  ")
    for text, is_target in pieces:
        if coloured:
            line.append(text, TARGET if is_target else "dim")
        else:
            line.append(f"[{text}]" if is_target else text)
    return line


def _sources(batches: Batches) -> Table:
    names = ("source", "rows", "documents", "tokens", "targets", "cut", "left out")
    table = Table(*(names[:1]), title="Where it comes from", title_justify="left")
    for name in names[1:]:
        table.add_column(name, justify="right")
    for facts in _source_facts(batches):
        cells = (
            f"{facts['rows']:,}", f"{facts['documents']:,}", f"{facts['tokens']:,}",
            f"{facts['target_share']:.0%}", f"{facts['truncated_share']:.0%}",
            f"{facts['skipped']:,}",
        )  # fmt: skip
        table.add_row(Text(f"{facts['split']}: {facts['source']}"), *cells)
    return table


def _source_facts(batches: Batches) -> Iterator[Mapping[str, Any]]:
    for split, sources in (("train", batches.summary.train), ("heldout", batches.summary.heldout)):
        for source in sources:
            yield {
                "split": split,
                "source": _safe(source.source),
                "rows": source.rows,
                "documents": source.examples,
                "tokens": source.tokens,
                "target_share": source.target_tokens / max(1, source.tokens),
                "truncated_share": source.truncated_share,
                "skipped": source.skipped,
                "streamed": source.streamed,
            }


def _outcome(proof: Proof) -> Text:
    sign, colour = SIGNS[proof.outcome]
    return Text(f"{sign} {proof.outcome}", colour)


def _said(proof: Proof) -> Text:
    text = Text(_safe(proof.name))
    if proof.detail:
        text.append(f"\n{_safe(proof.detail)}", "dim")
    if proof.remedy:
        text.append(f"\n> {_safe(proof.remedy)}")
    return text


def _safe(text: str) -> str:
    return redacted(one_line(text))


def _count(check: Check, outcome: Outcome) -> int:
    return sum(proof.outcome == outcome for proof in check.proofs)
