"""Loader: examples → batches. Holds the only causal shift of the project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nexus.batch import IGNORED, PADDING, Batch
from nexus.data.chat import Encoder, Example, SpecialTokens
from nexus.data.corpus import Corpus, read
from nexus.data.documents import Documents
from nexus.data.faults import OnBadRow
from nexus.data.ingest import Ingest
from nexus.data.mixture import Mixture
from nexus.data.packing import OverLong
from nexus.data.padded import check_padded, positions_in_runs
from nexus.data.rejected import Rejected, written
from nexus.data.sources import AnySource, Hub, Source
from nexus.data.trainable import BATCHES_CHECKED, refuse_untrainable
from nexus.errors import UsageError
from nexus.spec import Spec

_PLACE: Any = {"__all__": {"path"}}
"""Where files lie, which says nothing of what is in them."""


class DataSpec(Spec):
    """What to train and to evaluate on."""

    sources: tuple[AnySource, ...]
    """What to train on."""
    heldout: tuple[AnySource, ...] = ()
    """What to evaluate on: never trained on, never shuffled."""
    weights: dict[str, float] = {}
    """The share of rows of each task. Absent: in proportion to the data."""
    sequence_length: int = Field(default=512, ge=2)
    """Tokens in a row."""
    packing: bool = True
    """Several documents in a row, which do not see each other. False: one, and padding."""
    over_long: OverLong = "error"
    """What becomes of documents longer than a row: `split` (plain texts), `truncate` or `drop`."""
    on_bad_row: OnBadRow = "error"
    """What becomes of rows that cannot be used. `error`: all rows are checked, and the first 20 bad
    ones named. `skip`: they are left out, counted, and written to rejected.jsonl."""
    special_tokens: SpecialTokens = "escape"
    """Text that spells a special token stays text. `parse`: the data was rendered beforehand."""

    @field_validator("sources")
    @classmethod
    def _not_empty(cls, sources: tuple[AnySource, ...]) -> tuple[AnySource, ...]:
        if not sources:
            raise ValueError("there must be something to train on: name a source")
        return sources


class Batches:
    """The batches of a run: step k is a pure function of (spec, seed, k), so to resume is to ask.

    Made by `load`.

    Attributes:
        fingerprint: Hash of every document in order (its tokens, targets, parts and task, and of
            held-out ones too), and of the specification, but for where files lie. Of streams it
            covers the documents that their summary counts: what comes after, nobody has read.
        summary: What was read, skipped, cut and packed; of streams, only their first documents.
        task_names: What the numbers in `Batch.tasks` stand for.
    """

    def __init__(
        self,
        corpus: Corpus,
        mixture: Mixture,
        frame: Frame,
        fingerprint: str,
    ) -> None:
        self._corpus = corpus
        self._mixture = mixture
        self._frame = frame
        self.task_names = frame.task_names
        self.summary = corpus.summary
        self.fingerprint = fingerprint

    def take(self, step: int) -> list[Batch]:
        """The micro-batches of optimiser step `step` (from 0) for this rank.

        All ranks' rows together are the same for every number of ranks.
        """
        frame = self._frame
        first = (step * frame.world + frame.rank) * frame.rows_per_rank
        rows = [self._row(number) for number in range(first, first + frame.rows_per_rank)]
        return [self._collated(some) for some in _groups(rows, frame.micro_batch_rows)]

    def beginning(self, tokens: int, first_row: int = 0) -> Iterator[Batch]:
        """The training rows from one on, so many positions, whoever's they are: alike on all ranks.

        Args:
            tokens: how many positions; rounded up to whole rows.
            first_row: counted over all steps and ranks.
        """
        size, last = self._frame.micro_batch_rows, first_row + -(-tokens // self._frame.length)
        for start in range(first_row, last, size):
            yield self._collated([self._row(n) for n in range(start, min(start + size, last))])

    def documents(self, tokens: int) -> Documents:
        """Every training document once; where some are streamed, the first so many tokens."""
        members = self._corpus.train.values()
        if any(member.size is None for member in members):
            last = -(-tokens // self._frame.length)
            return Documents(lambda: (self._row(number) for number in range(last)))
        return Documents(
            lambda: (member[row] for member in members for row in range(member.size or 0))
        )

    @property
    def heldout_documents(self) -> Documents:
        """Every held-out document once."""
        held = self._corpus.heldout
        return Documents(lambda: (held[row] for row in range(held.size)) if held else ())

    def heldout(self, rows: int | None = None) -> Iterator[Batch]:
        """The held-out documents in their order, `rows` rows at a time; the last may have fewer."""
        held = self._corpus.heldout
        if held is None:
            return
        size = rows or self._frame.micro_batch_rows
        for start in range(0, held.size, size):
            numbers = range(start, min(start + size, held.size))
            yield self._collated([held[number] for number in numbers])

    def _row(self, number: int) -> list[Example]:
        task, place = self._mixture[number]
        return self._corpus.train[task][place]

    def _collated(self, rows: Sequence[Sequence[Example]]) -> Batch:
        frame = self._frame
        return collate(rows, frame.length, frame.pad_id, frame.task_names)


@dataclass(frozen=True)
class Frame:
    """The shape of batches, and which of them are this rank's."""

    length: int
    rows_per_rank: int
    micro_batch_rows: int
    rank: int
    world: int
    pad_id: int
    task_names: tuple[str, ...]


def load(
    spec: DataSpec,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    seed: int,
    tokens_per_step: int,
    micro_batch_rows: int,
    rank: int = 0,
    world: int = 1,
    context_limit: int | None = None,
    task_names: Sequence[str] | None = None,
    rejected: Path | None = None,
) -> Batches:
    """Read, tokenise and pack all data, except for streams, of which only the start is read.

    Args:
        spec: What to read.
        tokenizer: The student's.
        folder: What relative paths are relative to: the recipe's folder.
        seed: Shuffles.
        tokens_per_step: Positions of an optimiser step over all ranks.
        micro_batch_rows: Rows that go through the model at once; the last group may be smaller.
        rank: Which part of each step is wanted,
        world: of how many.
        context_limit: The most positions that teacher and student can take.
        task_names: The order in which tasks are numbered; by default as they appear.
        rejected: Where the rows that are left out are written, whole or not at all.

    Raises:
        UsageError: for whatever is wrong with the data or the sizes, with its place and remedy.
    """
    rows_per_rank = _rows_per_rank(spec, tokens_per_step, micro_batch_rows, world, context_limit)
    with written(rejected) as sink:
        encoder = Encoder(tokenizer, special_tokens=spec.special_tokens)
        corpus = _corpus(spec, encoder, folder, sink)
    frame = Frame(
        length=spec.sequence_length,
        rows_per_rank=rows_per_rank,
        micro_batch_rows=micro_batch_rows,
        rank=rank,
        world=world,
        pad_id=_pad_id(tokenizer),
        task_names=_task_names(corpus.task_names, task_names),
    )
    sizes = {task: rows.size for task, rows in corpus.train.items()}
    mixture = Mixture(sizes, spec.weights, seed)
    refuse_untrainable(corpus, mixture, BATCHES_CHECKED * micro_batch_rows, tokenizer)
    described = spec.model_dump_json(exclude={"sources": _PLACE, "heldout": _PLACE})
    parts = (described, corpus.digest.hex())
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Batches(corpus, mixture, frame, fingerprint)


def collate(
    rows: Sequence[Sequence[Example]], length: int, pad_id: int, task_names: Sequence[str]
) -> Batch:
    """Rows of documents → a batch: the only causal shift of the project.

    Documents stand one after another from the left of a row; what is left over is padding. The
    target of a position is the next token if that token is one and belongs to the same document;
    its part and task are those of the target.

    Args:
        rows: The documents of each row; together at most `length` tokens.
        length: The length of every row.
        pad_id: Stands where nothing stands.
        task_names: What the task numbers stand for; must hold every document's task.
    """
    shape = (len(rows), length)
    ids = np.full(shape, pad_id, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    documents = np.full(shape, PADDING, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    parts = np.zeros(shape, dtype=np.int64)
    tasks = np.zeros(shape, dtype=np.int64)
    numbers = {name: at for at, name in enumerate(task_names)}
    for row, examples in enumerate(rows):
        start = 0
        for document, example in enumerate(examples):
            stop = start + len(example)
            ids[row, start:stop] = example.ids
            documents[row, start:stop] = document
            positions[row, start:stop] = np.arange(len(example))
            targets[row, start : stop - 1] = np.where(
                example.is_target[1:], example.ids[1:], IGNORED
            )
            parts[row, start : stop - 1] = example.parts[1:]
            tasks[row, start:stop] = _number(example, numbers)
            start = stop
        positions[row, start:] = np.arange(length - start)
    return Batch(
        input_ids=torch.from_numpy(ids),
        targets=torch.from_numpy(targets),
        position_ids=torch.from_numpy(positions),
        documents=torch.from_numpy(documents),
        parts=torch.from_numpy(parts),
        tasks=torch.from_numpy(tasks),
        task_names=tuple(task_names),
        keys=tuple(tuple(example.key for example in examples) for examples in rows),
        places=tuple(tuple(example.place for example in examples) for examples in rows),
    )


def from_padded(
    input_ids: Tensor,
    labels: Tensor | None = None,
    attention_mask: Tensor | None = None,
    vocabulary: int | None = None,
) -> Batch:
    """Padded tensors as Hugging Face models take them → a batch, one document a row.

    Args:
        input_ids: `[rows, length]`, padded on the left, on the right, or not at all.
        labels: As for Hugging Face models: not shifted, -100 where there is no target. None: every
            token but the first of a row is a target.
        attention_mask: 1 for tokens, 0 for padding. None: no padding.
        vocabulary: How many ids there are.

    Raises:
        UsageError: if shapes or devices differ, a mask has holes, or ids or labels are no tokens.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    given = input_ids if labels is None else labels
    check_padded(input_ids, given, mask, vocabulary)
    real = mask != 0
    given = given.to(torch.long)
    targets = torch.full_like(given, IGNORED)
    both = real[:, :-1] & real[:, 1:]
    targets[:, :-1] = torch.where(both, given[:, 1:], IGNORED)
    nothing = torch.zeros_like(targets)
    return Batch(
        input_ids=input_ids.to(torch.long),
        targets=targets,
        position_ids=positions_in_runs(real),
        documents=torch.where(real, 0, PADDING),
        parts=nothing,
        tasks=nothing,
    )


def _number(example: Example, numbers: dict[str, int]) -> int:
    if example.task not in numbers:
        raise UsageError(
            f"{example.place}: the row's task '{example.task}' is not among the tasks "
            f"{', '.join(map(repr, numbers))}. The tasks of streamed rows cannot be known "
            "beforehand: give each task a source of its own, with task:."
        )
    return numbers[example.task]


def _rows_per_rank(
    spec: DataSpec, tokens: int, micro_batch_rows: int, world: int, context_limit: int | None
) -> int:
    length = spec.sequence_length
    if context_limit is not None and length > context_limit:
        raise UsageError(
            f"data.sequence_length is {length}, but the models take at most {context_limit} "
            f"positions. Set it to {context_limit} or less."
        )
    if micro_batch_rows < 1:
        raise UsageError(f"micro_batch_rows is {micro_batch_rows}: it must be at least 1.")
    unit = length * world
    if tokens < unit or tokens % unit:
        below = tokens // unit * unit
        values = f"{below} or {below + unit}" if below else f"{unit}"
        raise UsageError(
            f"train.tokens_per_step is {tokens}, which is no multiple of sequence_length {length} "
            f"× {world} processes. Set it to {values}."
        )
    return tokens // unit


def _corpus(spec: DataSpec, encoder: Encoder, folder: Path, rejected: Rejected | None) -> Corpus:
    for source in spec.heldout:
        if _is_stream(source) and source.limit is None:
            raise UsageError(
                f"{source.label}: held-out rows that are streamed need a limit. Set limit: 1000."
            )

    def ingests(sources: Iterable[Source]) -> list[Ingest]:
        return [
            Ingest(
                source,
                encoder,
                folder,
                length=spec.sequence_length,
                over_long=spec.over_long,
                on_bad_row=spec.on_bad_row,
                rejected=rejected,
                streamed=_is_stream(source),
            )
            for source in sources
        ]

    return read(
        ingests(source for source in spec.sources if not _is_stream(source)),
        ingests(source for source in spec.sources if _is_stream(source)),
        ingests(spec.heldout),
        length=spec.sequence_length,
        packing=spec.packing,
    )


def _is_stream(source: Source) -> bool:
    return isinstance(source, Hub) and source.streaming


def _task_names(present: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(present))
    if wanted is None:
        return names
    if missing := [name for name in names if name not in wanted]:
        raise UsageError(
            f"the data has the task '{missing[0]}', which is not among the tasks asked for: "
            f"{', '.join(map(repr, wanted))}. Add it, or change the sources' task:."
        )
    return tuple(wanted)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Nothing ever attends to padding, so that any token will do where there is no pad token."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(id_) for id_ in known if id_ is not None)


def _groups(rows: Sequence[list[Example]], size: int) -> Iterator[Sequence[list[Example]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
