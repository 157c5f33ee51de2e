"""From sources to examples, with an account of what was left out and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexus.data.chat import Encoder, Example
from nexus.data.faults import Fault, Faults, OnBadRow
from nexus.data.packing import OverLong, fitted
from nexus.data.rejected import Rejected
from nexus.data.sources import Row, Source
from nexus.errors import UsageError

COUNTED = (
    "rows", "used", "dropped", "examples", "tokens", "target_tokens", "truncated", "split",
    "escaped",
)  # fmt: skip


@dataclass(frozen=True)
class SourceSummary:
    """What one source gave. A streamed source is counted only as far as it was read."""

    source: str
    rows: int
    """Rows in the source: those used, those skipped and those dropped."""
    used: int
    """Rows that gave at least one document."""
    examples: int
    """Documents to train on; pieces of a split row are documents."""
    tokens: int
    target_tokens: int
    skipped: int
    """Rows that could not be used. All of them are in rejected.jsonl of the run."""
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
        rejected: Receives those that are left out.
        streamed: The source is read as it is needed, and may have no end.
        in_recipe: Whether it is a recipe that names the source.
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
        rejected: Rejected | None = None,
        streamed: bool = False,
        in_recipe: bool = True,
    ) -> None:
        self.source = source
        self.faults = Faults(on_bad_row, rejected=rejected, streamed=streamed, in_recipe=in_recipe)
        self._encoder = encoder
        self._folder = folder
        self._length = length
        self._over_long: OverLong = over_long
        self._counts = dict.fromkeys(COUNTED, 0)

    def examples(self) -> Iterator[Example]:
        """One pass over the source.

        Raises:
            UsageError: for bad or over-long rows where they are an error, and for a source in which
                there is no usable row. Bad rows are told of when all rows are read.
        """
        self.faults.begin()
        self._counts = dict.fromkeys(COUNTED, 0)
        for example in self._encoder.examples(self._rows(), self.source.task, self.faults):
            self._counts["escaped"] += example.escaped
            yield from self._fitted(example)
        self.faults.settle(self.source.label, self._counts["rows"])
        if not self._counts["used"]:
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
        self._counts["used"] += bool(kept)
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
            skipped_rows=tuple(self.faults.listed),
            streamed=streamed,
            **self._counts,
        )
