"""A student made of some of the teacher's layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import decoder_layers
from nexus.pruning.depth import block_influence, evenly_spaced, keep_layers
from nexus.spec import Spec

Choice = Literal["block_influence", "evenly_spaced", "first", "last"]


class Layers(Spec):
    """A student made of some of the teacher's layers; everything else of the teacher is kept."""

    kind: Literal["layers"] = "layers"
    count: Annotated[int, Field(ge=1)] | None = None
    """How many layers to keep."""
    pick: Choice | tuple[Annotated[int, Field(ge=0)], ...] = "block_influence"
    """How they are chosen, or which they are, counted from 0."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        match self.pick:
            case str() if self.count is None:
                raise ValueError(f"pick: {self.pick} needs count: add how many layers to keep")
            case tuple() if not self.pick or list(self.pick) != sorted(set(self.pick)):
                raise ValueError(
                    f"pick {list(self.pick)} must list layers in increasing order, each once"
                )
            case tuple() if self.count not in (None, len(self.pick)):
                raise ValueError(
                    f"pick lists {len(self.pick)} layers, but count is {self.count}: drop count"
                )
        return self

    def choose(self, teacher: PreTrainedModel, calibration: Iterable[Batch]) -> tuple[int, ...]:
        """The layers to keep, in increasing order.

        Raises:
            UsageError: The teacher has fewer layers, or there is nothing to measure them on.
        """
        total = len(decoder_layers(teacher))
        wanted = max(self.pick) + 1 if isinstance(self.pick, tuple) else self.count or 0
        if wanted > total:
            raise UsageError(
                f"student.{'pick' if isinstance(self.pick, tuple) else 'count'} asks for "
                + (f"layer {wanted - 1}" if isinstance(self.pick, tuple) else f"{wanted} layers")
                + f", but the teacher has {total} layers (0 to {total - 1}). Choose among those."
            )
        match self.pick:
            case tuple():
                return self.pick
            case "first":
                return tuple(range(wanted))
            case "last":
                return tuple(range(total - wanted, total))
            case "evenly_spaced":
                return evenly_spaced(wanted, total)
            case "block_influence":
                influence = block_influence(teacher, calibration)
                order = sorted(range(total), key=lambda layer: (-influence[layer].item(), layer))
                return tuple(sorted(order[:wanted]))

    def build(
        self,
        teacher_model: PreTrainedModel | None,
        calibration: Iterable[Batch],
        folder: Path,
        seed: int,
    ) -> PreTrainedModel:
        """Choose the layers and copy them, in float32.

        Raises:
            UsageError: There is no teacher in this process to take layers from, or it has too few.
        """
        if teacher_model is None:
            raise UsageError(
                "A student of kind 'layers' is made of the teacher's layers, but the teacher is "
                "not a model in this process. Use a local teacher, or a pretrained student."
            )
        return keep_layers(teacher_model, self.choose(teacher_model, calibration))
