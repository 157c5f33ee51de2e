"""A student that starts from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import field_validator
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.hub import Dtype, ModelSource, load_model


class Pretrained(ModelSource):
    """A student that starts from a checkpoint: a folder, a hub name or a GGUF file."""

    kind: Literal["pretrained"] = "pretrained"

    @field_validator("dtype")
    @classmethod
    def _trains_in_float32(cls, dtype: Dtype) -> Dtype:
        if dtype != "float32":
            raise ValueError("a student starts in float32: set train.precision instead")
        return dtype

    def build(
        self,
        teacher_model: PreTrainedModel | None,
        calibration: Iterable[Batch],
        folder: Path,
        seed: int,
    ) -> PreTrainedModel:
        """Load the student in float32. Needs neither teacher nor calibration data."""
        return load_model(self, folder, dtype="float32")
