"""From sources to examples, with an account of what was left out and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexus.data.chat import Encoder, Example
from nexus.data.faults import Fault, Faults, OnBadRow
from nexus.data.packing import OverLong, fitted
from nexus.data.sources import Row, Source
from nexus.errors import UsageError

MOST_SHOWN = 20


@dataclass(frozen=True)
class SourceSummary:
    """What one source gave. A streamed source is counted only as far as it was read."""

    source: str
    rows: int
    """Rows in the source, those skipped among them."""
    examples: int
    """Documents to train on; pieces of a split row are documents."""
    tokens: int
    target_tokens: int
    skipped: int
    skipped_rows: tuple[Fault, ...]
    """The first 20 skipped rows and why."""
    truncated: int
    """Examples whose end was cut."""
    split: int
    """Rows split into several documents."""
    dropped: int
    """Rows left out because they were too long."""
    escaped: int
    """Rows whose text spelt special tokens, which were kept as text."""
    streamed: bool = False

    @property
    def truncated_share(self) -> float:
        return self.truncated / max(1, self.examples)


class Ingest:
    """Reads a source to examples that fit a row, and counts.

    Args:
        source: What to read.
        encoder: Tokenises the rows.
        folder: What relative paths are relative to.
        length: The most tokens of an example.
        over_long: What becomes of longer ones.
        on_bad_row: What becomes of rows that cannot be used.
    """

    def __init__(
        self,
        source: Source,
        encoder: Encoder,
        folder: Path,
        *,
        length: int,
        over_long: OverLong = "error",
        on_bad_row: OnBadRow = "error",
    ) -> None:
        self.source = source
        self.faults = Faults(on_bad_row)
        self._encoder = encoder
        self._folder = folder
        self._length = length
        self._over_long: OverLong = over_long
        self._counts = dict.fromkeys(
            ("rows", "examples", "tokens", "target_tokens", "truncated", "split", "dropped"), 0
        )
        self._escaped = 0

    def examples(self) -> Iterator[Example]:
        """One pass over the source.

        Raises:
            UsageError: for a bad or over-long row where that is an error, and for a source in which
                there is no usable row.
        """
        found = False
        for example in self._encoder.examples(self._rows(), self.source.task, self.faults):
            self._escaped += example.escaped
            for piece in self._fitted(example):
                found = True
                yield piece
        if not found:
            raise UsageError(self._nothing())

    def _rows(self) -> Iterator[Row]:
        rows = self.source.rows(self._folder, self.faults)
        while True:
            skipped = self.faults.count
            row = next(rows, None)
            self._counts["rows"] += self.faults.count - skipped
            if row is None:
                return
            self._counts["rows"] += 1
            yield row

    def _fitted(self, example: Example) -> list[Example]:
        pieces = fitted(example, self._length, self._over_long)
        kept = [piece for piece in pieces if piece.target_count]
        if pieces and not kept:
            self.faults.add(
                example.place,
                f"cut to {self._length} tokens, the row has no target left: raise "
                "data.sequence_length",
            )
        self._counts["dropped"] += not pieces
        self._counts["split"] += len(pieces) > 1
        for piece in kept:
            self._counts["examples"] += 1
            self._counts["tokens"] += len(piece)
            self._counts["target_tokens"] += piece.target_count
            self._counts["truncated"] += piece.truncated
        return kept

    def _nothing(self) -> str:
        label = self.source.label
        if not self._counts["rows"]:
            return f"{label}: the data set is empty. Name one that has rows."
        why = f"{self.faults.count} of {self._counts['rows']} were skipped"
        if self.faults.listed:
            fault = self.faults.listed[0]
            why += f", the first ({fault.place}) because {fault.reason}"
        if dropped := self._counts["dropped"]:
            why += f"; {dropped} dropped, being over sequence_length {self._length}"
        return f"{label}: no row can be used: {why}."

    def summary(self, *, streamed: bool = False) -> SourceSummary:
        """What was read so far."""
        return SourceSummary(
            source=self.source.label,
            skipped=self.faults.count,
            skipped_rows=tuple(self.faults.listed[:MOST_SHOWN]),
            escaped=self._escaped,
            streamed=streamed,
            **self._counts,
        )
