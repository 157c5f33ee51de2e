"""Quantize: into how many bits the student goes, and whether it learns within them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_validator

from nexus.quantization.learning import Learned
from nexus.quantization.scheme import Scheme
from nexus.spec import Spec
from nexus.training.settings import TrainSpec

RATES: dict[Learned, float] = {"scales": 1.0e-3, "weights": 3.0e-5}
"""Peak learning rates: of scales as shares of themselves, of weights as they are."""


class QuantizeDistill(Spec):
    """Quantisation-aware distillation: the student in few bits follows the student as it was.

    Forward KL at temperature 1, on the training text that follows what the stages have read
    (arXiv:2601.20088). Layers in few bits are trained, and nothing else.
    """

    parameters: Learned = "scales"
    """What learns: the groups' scales, with every code as rounding left it; or the weights too,
    through a straight-through estimator (LSQ, arXiv:1902.08153)."""
    train: TrainSpec
    """How. Unless given, learning_rate is 1.0e-3 for scales, of which it is a share, and 3.0e-5 for
    weights; weight_decay is 0."""

    @model_validator(mode="before")
    @classmethod
    def _has_rates_of_its_own(cls, values: Any) -> Any:
        if not (isinstance(values, dict) and isinstance(values.get("train"), dict)):
            return values
        own: dict[str, Any] = {"weight_decay": 0.0}
        if (rate := RATES.get(values.get("parameters", "scales"))) is not None:
            own["learning_rate"] = rate
        return {**values, "train": {**own, **values["train"]}}

    @field_validator("train")
    @classmethod
    def _can_learn(cls, train: TrainSpec) -> TrainSpec:
        if train.lora is not None:
            raise ValueError(
                "lora is set, and an adapter does not fit into few bits: drop lora, or train it in "
                "a stage before"
            )
        if train.precision == "pure_bf16":
            raise ValueError(
                "precision is pure_bf16, in which scales stand still: set it to bf16 or fp32"
            )
        if train.parallel == "fsdp2":
            raise ValueError(
                "parallel is fsdp2, which does not spread layers in few bits: set it to ddp or auto"
            )
        return train


class Quantize(Scheme):
    """In which form the trained student is written as well, and measured."""

    distill: QuantizeDistill | None = None
    """Train it within few bits, too, beside the one that was rounded."""

    @model_validator(mode="after")
    def _has_gradients(self) -> Self:
        if self.distill is not None and self.dynamic:
            raise ValueError(
                "scheme int8_dynamic rounds what enters a layer, through which no gradient comes: "
                "take int8, or drop distill"
            )
        return self
