"""Where a causal language model keeps its backbone and its decoder layers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from nexus.errors import UsageError


def backbone(model: nn.Module) -> PreTrainedModel:
    """What turns token ids into the hidden states that enter the head.

    Raises:
        UsageError: The model does not keep its backbone apart from its head.
    """
    whole = without_adapters(model)
    untyped: Any = whole
    for part in (untyped.get_decoder(), untyped.base_model):
        if isinstance(part, PreTrainedModel) and part is not whole:
            return part
    raise UsageError(
        f"{type(whole).__name__} does not keep its backbone apart from its head, so its hidden "
        "states cannot be had. Use another architecture."
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The model's decoder layers in their order: the outermost list of as many as it has layers.

    Raises:
        UsageError: The architecture does not keep its layers in one list.
    """
    decoder = backbone(model)
    count = without_adapters(model).config.get_text_config().num_hidden_layers
    lists = [
        (name.count("."), part)
        for name, part in decoder.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if not lists:
        raise UsageError(
            f"{type(decoder).__name__} does not keep its {count} layers in one list, so they "
            "cannot be told apart. Use another architecture, or a student that needs no layers."
        )
    return min(lists, key=lambda found: found[0])[1]


def compile_layers(model: nn.Module) -> None:
    """Compile each decoder layer in place for fixed shapes: one compilation serves them all."""
    for layer in decoder_layers(model):
        layer.compile(dynamic=False)


def without_adapters(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, which PEFT wraps and puts its adapters into.

    Raises:
        UsageError: The model is none of transformers'.
    """
    if "peft" in sys.modules:  # a model cannot carry adapters before PEFT is imported
        from peft import PeftModel

        if isinstance(model, PeftModel):
            if model.active_peft_config.is_prompt_learning:
                raise UsageError(
                    f"The student's adapter is {model.active_peft_config.peft_type.value}, which "
                    "puts tokens in front of the text. Use LoRA, or train the whole model."
                )
            model = model.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"{type(model).__name__} is not a transformers model. Pass a PreTrainedModel or a "
            "PeftModel."
        )
    return model


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Without dropout inside, and as it was afterwards, part by part."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
