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
    tokenizer: Literal["own", "teacher"] = "own"
    """`teacher`: it gives up its own end-of-text token, special tokens and chat template for the
    teacher's. The ids must be the same in any case."""

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
        """Load the student in float32. Needs no calibration data, nor a teacher of its own."""
        student = load_model(self, folder, dtype="float32")
        if self.tokenizer == "teacher" and teacher_model is not None:
            _adopt_ids(student, teacher_model)
        return student


def _adopt_ids(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """The student's texts begin and end as the teacher's do."""
    pairs = [
        (student.config, teacher.config),
        (student.generation_config, teacher.generation_config),
    ]
    for ours, theirs in pairs:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(ours, name, getattr(theirs, name, None))
