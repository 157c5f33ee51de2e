"""Reading a quantised checkpoint into layers that stay quantised, through transformers' loader."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from nexus.quantization.config import scheme_in
from nexus.quantization.linear import DynamicLinear, PackedLinear
from nexus.quantization.scheme import Scheme

NAME = "nexus-packed"
"""What transformers' loader knows these layers by, while it loads; no file says so."""


def is_quantized(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint says that it is, in whatever form."""
    return getattr(config, "quantization_config", None) is not None


def loadable(config: PreTrainedConfig, where: str) -> PreTrainedConfig:
    """The configuration with which `from_pretrained` keeps weights in few bits.

    Args:
        config: of a quantised model, as it was read.
        where: what messages call the model.

    Raises:
        UsageError: It is quantised in another form than those that are written here.
    """
    scheme, kept = scheme_in(_plain(config), where)
    _register()
    copied = copy.deepcopy(config)
    vars(copied)["quantization_config"] = {
        "quant_method": NAME,
        "scheme": scheme.model_dump(),
        "kept": sorted(kept),
    }
    return copied


def settle(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Let a model that was just loaded say again what its files say, not how it was loaded."""
    untyped: Any = model
    untyped.hf_quantizer = None
    vars(model.config)["quantization_config"] = _plain(config)


class PackedConfig(QuantizationConfigMixin):
    """What the loader has to know."""

    def __init__(self, scheme: dict[str, Any], kept: list[str], quant_method: str = NAME) -> None:
        self.quant_method: Any = quant_method
        self.scheme, self.kept = Scheme.model_validate(scheme), frozenset(kept)


class PackedQuantizer(HfQuantizer):
    """Puts layers that hold few bits in the place of linear ones before anything is read."""

    quantization_config: Any

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, **kwargs: Any
    ) -> PreTrainedModel:
        scheme, kept = self.quantization_config.scheme, self.quantization_config.kept
        for name, part in list(model.named_modules()):
            if type(part) is nn.Linear and name not in kept:
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, _hollow(part, scheme))
        return model

    def get_new_dtype(
        self, converter: Any, param: Any, dtype: torch.dtype | None
    ) -> torch.dtype | None:
        """Codes stay as they are; scales go along with the rest of the model."""
        floating = param.get_dtype().startswith(("F", "BF"))
        return dtype if floating else None

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _hollow(part: nn.Linear, scheme: Scheme) -> nn.Module:
    shape = (part.in_features, part.out_features)
    bias, dtype = part.bias is not None, part.weight.dtype
    if scheme.dynamic:
        return DynamicLinear(*shape, bias=bias, device="meta", dtype=dtype)
    return PackedLinear(*shape, scheme, bias=bias, device="meta", dtype=dtype)


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    found: Any = getattr(config, "quantization_config", None)
    return found if isinstance(found, dict) else dict(found.to_dict())


def _register() -> None:
    """Make these known to transformers' loader, as its own are, once they are needed."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(NAME, PackedConfig)
    AUTO_QUANTIZER_MAPPING.setdefault(NAME, PackedQuantizer)
