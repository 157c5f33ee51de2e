"""A model without any weight, which runs all the same: shapes, types and sizes, in a second."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from nexus.hub import quiet
from nexus.kernels.decoder import backbone, decoder_layers

_NO_RUN = (
    RuntimeError,
    DynamicOutputShapeException,
    DataDependentOutputException,
)
"""What PyTorch raises where a step depends on values, or has no shapes-only form."""


class Hollow:
    """A causal language model of which only the shapes are there.

    It is made of a configuration alone and takes no memory. Its forward pass computes nothing, but
    says what autograd would keep for the backward pass, whatever the architecture.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        dtype: torch.dtype = torch.float32,
        layers: int | tuple[int, ...] | None = None,
    ) -> None:
        """Build the model of a configuration.

        Args:
            config: Of a model that `can_be`.
            dtype: Of the weights.
            layers: Which of its layers to keep, or how many: the largest ones. All if not given.

        Raises:
            UsageError: The model has no such layers, or they cannot be told apart.
        """
        maker: Any = AutoModelForCausalLM
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with _drawing_nothing(), self._mode, no_init_weights():
            self.model: PreTrainedModel = maker.from_config(copy.deepcopy(config), dtype=dtype)
            self.model.tie_weights()
        if layers is not None:
            self._keep(layers)

    @staticmethod
    def can_be(config: PreTrainedConfig) -> bool:
        """Whether transformers itself knows the architecture, so that no foreign code would run."""
        return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING

    def _keep(self, wanted: int | tuple[int, ...]) -> None:
        layers = decoder_layers(self.model)
        if isinstance(wanted, int):
            sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
            wanted = tuple(sorted(range(len(layers)), key=lambda layer: -sizes[layer])[:wanted])
        for number in reversed(range(len(layers))):
            if number not in wanted:
                del layers[number]
        self.model.config.get_text_config().num_hidden_layers = len(layers)

    @property
    def parameters(self) -> int:
        """Numbers in all weights; tied ones count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def head(self) -> tuple[int, int]:
        """Rows and columns of the head."""
        model: Any = self.model
        rows, columns = model.get_output_embeddings().weight.shape
        return int(rows), int(columns)

    @property
    def linear_sides(self) -> int:
        """Inputs and outputs of all linear layers but the head: what an adapter of rank 1 holds."""
        parts = (part for part in backbone(self.model).modules() if isinstance(part, nn.Linear))
        return sum(part.in_features + part.out_features for part in parts)

    def saved_bytes(
        self, rows: int, length: int, *, autocast: bool, recomputed: bool = False
    ) -> int | None:
        """What autograd keeps of a forward pass up to the head, weights apart.

        Rows are taken to hold several documents: attention is masked, so that keys and values are
        repeated for the heads that share them. A row of one document needs neither, and less.

        Args:
            rows: Of the batch.
            length: Of a row.
            autocast: Whether products run in bf16 under autocast, whose casts of the weights count.
            recomputed: Whether layers keep their input only; the most that recomputing one of them
                holds at a time then comes on top.

        Returns:
            Nothing if the architecture cannot run without values, as some mixtures of experts.
        """
        whole = self._saved(rows, length, autocast)
        if not recomputed or not self.model.supports_gradient_checkpointing:
            return whole
        model: Any = self.model
        model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            kept = self._saved(rows, length, autocast)
        finally:
            model.activation_checkpointing_disable()
        if whole is None or kept is None:
            return None
        return min(whole, kept + whole // len(decoder_layers(self.model)))

    def _saved(self, rows: int, length: int, autocast: bool) -> int | None:
        with _drawing_nothing(), self._mode:
            self.model.train()
            own = {parameter.untyped_storage()._cdata for parameter in self.model.parameters()}
            kept: dict[int, Tensor] = {}

            def keep(tensor: Tensor) -> Tensor:
                if (storage := tensor.untyped_storage()._cdata) not in own:
                    kept[storage] = tensor
                return tensor

            body = backbone(self.model)
            inputs = {"input_ids": torch.zeros(rows, length, dtype=torch.long)}
            if "position_ids" in inspect.signature(body.forward).parameters:
                inputs["position_ids"] = torch.arange(length).repeat(rows, 1)
            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            ):
                try:
                    out = body(**inputs, use_cache=False)
                except _NO_RUN:
                    return None
            total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
            del out
            return total


@contextmanager
def _drawing_nothing() -> Iterator[None]:
    """Nothing of a hollow model is said, and nobody else's random numbers are used up."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    with quiet(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)  # it reports with a traceback what is raised besides
        try:
            yield
        finally:
            log.setLevel(level)
