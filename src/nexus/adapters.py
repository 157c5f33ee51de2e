"""Models that carry adapters, as the plain models they stand for."""

from __future__ import annotations

import copy
import sys
from typing import Any

from torch import nn


def merged(model: nn.Module) -> Any:
    """The model itself, or a copy with its adapters merged where it has some."""
    if "peft" not in sys.modules:  # a model cannot carry adapters before PEFT is imported
        return model
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    adapted = copy.deepcopy(model)
    base = adapted.get_base_model()
    _untie(base)
    return adapted.merge_and_unload()


def _untie(model: Any) -> None:
    """Part a head from the embedding it is tied to, where an adapter sits on only one of them."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if type(head) is nn.Linear and type(embedding) is nn.Embedding:
        return
    weight, tied = _base_layer(head).weight, _base_layer(embedding).weight
    if weight is tied:
        _base_layer(head).weight = nn.Parameter(weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def _base_layer(module: Any) -> Any:
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module
