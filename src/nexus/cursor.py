"""Where in the training text a stage begins: behind what the stages before it have read."""

from __future__ import annotations

from dataclasses import dataclass

from nexus.batch import Batch
from nexus.data.loader import Batches
from nexus.recipe.schema import Recipe


def skipped_steps(recipe: Recipe, number: int) -> int:
    """How many steps of its own size a stage skips, so that no stage reads a row of another."""
    taken, length = 0, recipe.data.sequence_length
    for stage in recipe.all_training[:number]:
        rows = stage.train.tokens_per_step // length
        taken = (-(-taken // rows) + stage.train.steps) * rows
    return -(-taken // (recipe.all_training[number].train.tokens_per_step // length))


def first_row(recipe: Recipe, number: int) -> int:
    """The first row of the data that a stage trains on."""
    rows = recipe.all_training[number].train.tokens_per_step // recipe.data.sequence_length
    return skipped_steps(recipe, number) * rows


@dataclass(frozen=True)
class Later:
    """Batches that begin `skipped` steps into the stream."""

    batches: Batches
    skipped: int

    def take(self, step: int) -> list[Batch]:
        return self.batches.take(self.skipped + step)
