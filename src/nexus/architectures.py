"""What a checkpoint is loaded as: a causal language model, or the encoder that it was saved as."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
)

from nexus.errors import UsageError

ONLY_CAUSAL = "Nexus distils decoder-only language models: name one"

_ENCODERS = (
    (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
    (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING),
)
"""Heads of encoders that can be cut and quantised, and which class each architecture has."""


def loader_of(
    model: str, config: PreTrainedConfig, *, trusted: bool = False, encoders: bool = False
) -> Any:
    """The auto class of a checkpoint.

    Args:
        model: its name, for messages.
        config: its configuration.
        trusted: whether code that it brings may run.
        encoders: whether it may be an encoder with a head over tokens or classes.

    Raises:
        UsageError: It is no causal language model, nor such an encoder where that will do.
    """
    brings_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if (trusted and brings_code) or _is_causal(config):
        return AutoModelForCausalLM
    if not encoders:
        raise UsageError(
            f"Model {model} is a {architecture(config)} ({config.model_type}), not a causal "
            f"language model. {ONLY_CAUSAL}."
        )
    for loader, mapping in _ENCODERS:
        known: Any = mapping.get(type(config), None)
        if known is not None and known.__name__ in (config.architectures or ()):
            return loader
    raise UsageError(
        f"Model {model} is a {architecture(config)} ({config.model_type}), neither a causal "
        "language model nor an encoder with a head over tokens or classes (…ForMaskedLM, "
        "…ForSequenceClassification, …ForTokenClassification). Save it with such a head, or name "
        "another model."
    )


def architecture(config: PreTrainedConfig) -> str:
    """What a checkpoint says that it is."""
    return ", ".join(config.architectures or [type(config).__name__.removesuffix("Config")])


def loaded_apart(model: PreTrainedModel, told: Tensor) -> float:
    """How far logits of a model that was loaded anew may lie from those before it was saved.

    Not at all; only a head over classes multiplies a vector a row, whose products are summed up in
    an order that depends on where in memory its weights come to lie.
    """
    if model.get_output_embeddings() is not None:  # type: ignore[no-untyped-call]
        return 0.0
    return 8 * torch.finfo(model.dtype).eps * float(told.abs().max())


def _is_causal(config: PreTrainedConfig) -> bool:
    known = type(config)
    decodes = getattr(config, "is_decoder", False)  # not every configuration knows the word
    reads_both_ways = known in MODEL_FOR_MASKED_LM_MAPPING and not decodes
    return known in MODEL_FOR_CAUSAL_LM_MAPPING and not (
        config.is_encoder_decoder or reads_both_ways
    )
