"""Batch: rows of tokens with targets that are already shifted, and what each target belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IGNORED = -100
"""The target of a position that no loss is computed at."""

PADDING = -1
"""The document number of a position that belongs to no document."""

ANSWER, RATIONALE = 0, 1
"""The parts a target can belong to."""


class Targets(NamedTuple):
    """What is known of each target of a batch, in row-major order, ignored positions dropped."""

    tokens: Int[Tensor, " n"]
    parts: Int[Tensor, " n"]
    tasks: Int[Tensor, " n"]


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents. `targets[r, t]` is the token that position `t` must predict.

    Documents never see each other: `position_ids` restart at 0 with every document, which is what
    the models' attention masks are derived from, and the last position of a document has no target.
    Padding is a document of its own, numbered `PADDING`, at either end of a row.
    """

    input_ids: Int[Tensor, "rows length"]
    targets: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    documents: Int[Tensor, "rows length"]
    parts: Int[Tensor, "rows length"]
    tasks: Int[Tensor, "rows length"]
    task_names: tuple[str, ...] = ("",)
    keys: tuple[tuple[str, ...], ...] = ()
    """The stable keys of each row's documents, in their order in the row."""
    places: tuple[tuple[str, ...], ...] = ()
    """Where each of them was read from."""

    @property
    def is_target(self) -> Bool[Tensor, "rows length"]:
        return self.targets != IGNORED

    @property
    def target_count(self) -> Int[Tensor, ""]:
        """A tensor, so that asking costs no synchronisation with an accelerator."""
        return self.is_target.sum()

    def at_targets(self) -> Targets:
        """The targets with their parts and tasks, in the order in which signals are given."""
        where = self.is_target
        return Targets(self.targets[where], self.parts[where], self.tasks[where])

    def to(self, device: torch.device | str) -> Batch:
        tensors = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)

    def rows(self, start: int, stop: int) -> Batch:
        """A batch of some of the rows: the loss does not depend on how rows are grouped."""
        tensors = {
            field.name: getattr(self, field.name)[start:stop]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        keys, places = self.keys[start:stop], self.places[start:stop]
        return replace(self, keys=keys, places=places, **tensors)


def until_targets(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Whole batches until there are so many targets; no batch more is asked for."""
    for batch in batches:
        yield batch
        count -= int(batch.target_count)
        if count <= 0:
            return
