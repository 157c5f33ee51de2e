"""A few short pieces of the user's own documents, and the batches that can be made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nexus.batch import IGNORED, PADDING, Batch
from nexus.data.chat import Example, stable_key
from nexus.data.loader import collate, from_padded

LENGTHS = (16, 11, 19, 7, 13)
"""Tokens of each piece: all different, so that a mean of means is no mean."""

FEWEST_TARGETS = 2
BEFORE = 4
"""Tokens that are kept before a piece's first target."""


def pieces_of(batches: Sequence[Batch]) -> list[Example]:
    """Pieces of real documents, at most one for each of `LENGTHS`; fewer if the batches are poor.

    One a document as long as there are others, then further ones from the same documents.
    """
    documents = [document for batch in batches for document in _documents(batch)]
    found: list[Example] = []
    for piece in _windows(documents):
        cut = _cut(piece, LENGTHS[len(found)])
        if cut.target_count >= FEWEST_TARGETS:
            found.append(cut)
        if len(found) == len(LENGTHS):
            break
    return found


def in_rows(rows: Sequence[Sequence[Example]], length: int, device: torch.device) -> Batch:
    """Rows of pieces, padded on the right, by the loader that training uses."""
    names = tuple(dict.fromkeys(piece.task for row in rows for piece in row))
    return collate(rows, length, 0, names).to(device)


def singly(pieces: Sequence[Example], device: torch.device, room: int = 0) -> Batch:
    """A piece a row, with `room` more padding than the longest needs."""
    return in_rows([[piece] for piece in pieces], max(map(len, pieces)) + room, device)


def padded_left(pieces: Sequence[Example], device: torch.device, vocabulary: int) -> Batch:
    """A piece a row, padded on the left, from tensors as Hugging Face models take them."""
    length = max(map(len, pieces))
    shape = (len(pieces), length)
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, piece in enumerate(pieces):
        tokens = torch.from_numpy(piece.ids).long()
        ids[row, length - len(piece) :] = tokens
        labels[row, length - len(piece) :] = tokens.where(
            torch.from_numpy(piece.is_target), torch.tensor(IGNORED)
        )
        mask[row, length - len(piece) :] = 1
    return from_padded(ids, labels, mask, vocabulary).to(device)


def _windows(documents: Sequence[Example]) -> Iterator[Example]:
    longest = max(LENGTHS)
    for round_ in range(len(LENGTHS)):
        for document in documents:
            targets = np.flatnonzero(document.is_target[1:]) + 1
            if not len(targets):
                continue
            start = max(int(targets[0]) - BEFORE, 0) + round_ * longest
            if start < len(document):
                yield _part(document, start, len(document))


def _cut(document: Example, length: int) -> Example:
    return _part(document, 0, min(length, len(document)))


def _part(document: Example, start: int, stop: int) -> Example:
    ids = document.ids[start:stop]
    return Example(
        ids=ids,
        is_target=document.is_target[start:stop],
        parts=document.parts[start:stop],
        task=document.task,
        key=stable_key(ids, document.task),
        place=document.place,
    )


def _documents(batch: Batch) -> Iterator[Example]:
    """The documents of a batch as they were before the shift."""
    batch = batch.to("cpu")
    for row in range(len(batch.input_ids)):
        numbers = batch.documents[row]
        for number in sorted(set(numbers.tolist())):
            if number != PADDING:
                yield _document(batch, row, (numbers == number).nonzero().squeeze(-1))


def _document(batch: Batch, row: int, at: Tensor) -> Example:
    ids = batch.input_ids[row, at].numpy().astype(np.int32)
    is_target, parts = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=np.int8)
    is_target[1:] = batch.is_target[row, at[:-1]].numpy()
    parts[1:] = batch.parts[row, at[:-1]].numpy()
    task = batch.task_names[int(batch.tasks[row, at[0]])]
    return Example(ids, is_target, parts, task, stable_key(ids, task), place="")
