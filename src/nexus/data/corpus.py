"""Corpus: all data of a run, read, tokenised and packed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nexus.data.examples import Examples
from nexus.data.ingest import Ingest, SourceSummary
from nexus.data.rows import Packed, Rows, Streamed
from nexus.errors import UsageError


@dataclass(frozen=True)
class DataSummary:
    """What the data came to."""

    train: tuple[SourceSummary, ...]
    heldout: tuple[SourceSummary, ...]
    train_tokens: int
    heldout_tokens: int
    rows: int
    """Different training rows of `sequence_length` tokens; those of streams not counted."""
    packing_efficiency: float
    """The share of the training rows' positions that is not padding."""
    contaminated: int
    """Held-out documents that are training documents too."""


@dataclass(frozen=True)
class Corpus:
    """Rows to train on by task, rows to evaluate on, and the account of both."""

    train: dict[str, Rows]
    heldout: Packed | None
    task_names: tuple[str, ...]
    """In order of appearance."""
    digest: bytes
    """SHA-256 of all documents in order, held out ones too: tokens, targets, parts and tasks. Of
    streams, of the documents that their summary counts."""
    summary: DataSummary


def read(
    sources: Sequence[Ingest],
    streams: Sequence[Ingest],
    heldout: Sequence[Ingest],
    *,
    length: int,
    packing: bool,
) -> Corpus:
    """Reads everything, except for streams, of which only the start is read.

    Held-out documents keep their order, and are never shuffled.

    Raises:
        UsageError: as the sources do, and if a stream shares its task with another source.
    """
    train, aside = _gathered(sources), _gathered(heldout)
    packed = {
        task: Packed(train, train.of_task(task), length, packing=packing)
        for task in train.task_names
    }
    rows = sum(member.size for member in packed.values())
    streamed = _streamed(streams, set(packed), length, packing=packing)
    summary = DataSummary(
        train=tuple(ingest.summary() for ingest in sources)
        + tuple(ingest.summary(streamed=True) for ingest in streams),
        heldout=tuple(ingest.summary() for ingest in heldout),
        train_tokens=train.tokens,
        heldout_tokens=aside.tokens,
        rows=rows,
        packing_efficiency=train.tokens / max(1, rows * length),
        contaminated=_contaminated(aside, train),
    )
    starts = Examples()
    for member in streamed.values():
        for number in range(member.at_hand):
            for example in member[number]:
                starts.append(example)
    whole = hashlib.sha256(train.digest + aside.digest + starts.digest)
    in_order = Packed(aside, np.arange(len(aside)), length, packing=packing, in_order=True)
    return Corpus(
        train={**packed, **streamed},
        heldout=in_order if len(aside) else None,
        task_names=tuple(dict.fromkeys([*packed, *streamed, *aside.task_names])),
        digest=whole.digest(),
        summary=summary,
    )


def _gathered(ingests: Sequence[Ingest]) -> Examples:
    examples = Examples()
    for ingest in ingests:
        for example in ingest.examples():
            examples.append(example)
    return examples


def _streamed(
    ingests: Sequence[Ingest], taken: set[str], length: int, *, packing: bool
) -> dict[str, Streamed]:
    """Each stream as rows; its start is read, so that a mistake in it shows now."""
    members: dict[str, Streamed] = {}
    for ingest in ingests:
        task = ingest.source.task
        if task in taken or task in members:
            raise UsageError(
                f"{ingest.source.label}: it is streamed and another source has its task "
                f"'{task}' too. Give it a task of its own, so that data.weights can say how much "
                "of it to read."
            )
        members[task] = Streamed(ingest, length, packing=packing)
        _ = members[task][0]
    return members


def _contaminated(heldout: Examples, train: Examples) -> int:
    seen = set(heldout.keys()).intersection(train.keys())
    return sum(key in seen for key in heldout.keys())  # noqa: SIM118
