"""A frozen model in this process, as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.hub import Dtype, ModelSource, load_model, load_tokenizer
from nexus.kernels.decoder import without_adapters
from nexus.kernels.lm_head import Trunk, head_rows, split_head
from nexus.quantization.scheme import Scheme, SchemeName
from nexus.signals import Headed, Signal, Signals
from nexus.teachers.teacher import Teacher
from nexus.tokenizers import real_vocabulary


class LocalTeacher(Teacher):
    """A frozen model: in eval mode whatever others do to it, and never in autograd.

    The model's parameters are frozen in place; give a copy if they are to be trained elsewhere.
    """

    def __init__(self, model: nn.Module, vocabulary: int | None = None, packed: bool = True):
        """Freeze `model`.

        Args:
            model: A transformers causal language model, or one that PEFT wraps.
            vocabulary: How many of its head's rows stand for tokens; all of them if not given.
            packed: Whether rows may hold several documents.
        """
        self.model = model.requires_grad_(False).eval()
        self.trunk = split_head(model, vocabulary or head_rows(model), packed)
        self.speaker = Speaker(self.model, self.trunk)

    @property
    def provides(self) -> Signal:
        return Signal.DISTRIBUTION | Signal.FULL_VOCABULARY

    @property
    def vocabulary(self) -> int:
        return self.trunk.vocabulary

    @property
    def pretrained(self) -> PreTrainedModel:
        """The transformers model itself."""
        return without_adapters(self.model)

    @torch.no_grad()
    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        """The distribution at each target, as hidden states and head; nothing is run for nothing.

        Raises:
            UsageError: Something else is wanted.
        """
        self.require(wanted)
        if not wanted:
            return Signals()
        self.model.eval()
        told: Headed = self.speaker(batch)
        return Signals(told)

    def to(self, device: torch.device | str) -> None:
        self.model.to(device)


class Speaker(nn.Module):
    """The model as it is called, and as what it is spread over many processes."""

    def __init__(self, model: nn.Module, trunk: Trunk) -> None:
        super().__init__()
        self.model, self._trunk = model, trunk

    def forward(self, batch: Batch) -> Headed:
        return Headed(self._trunk.hidden(batch)[batch.is_target], self._trunk.head())


class LocalTeacherSpec(ModelSource):
    """A frozen model in this process: a folder, a hub name or a GGUF file."""

    kind: Literal["local"] = "local"
    dtype: Dtype = "bfloat16"
    """What the weights are held in; half precision halves the memory and hardly moves the loss."""
    quantize: SchemeName | Scheme | None = None
    """Hold the weights of its linear layers in few bits, once a student that is cut out of it is
    made. By a bare name (`int4`), grids lie around their own middles."""

    @property
    def scheme(self) -> Scheme | None:
        """Into how many bits, if into few."""
        if isinstance(self.quantize, str):
            return Scheme(scheme=self.quantize, symmetric=self.quantize not in ("int4", "int3"))
        return self.quantize

    def load(
        self, folder: Path, vocabulary: int | None = None, packed: bool = True
    ) -> LocalTeacher:
        """Load the model and freeze it.

        Args:
            folder: The recipe's folder, which relative paths are relative to.
            vocabulary: How many of the head's rows stand for tokens; asked of the model's own
                tokenizer if not given.
            packed: Whether rows may hold several documents.
        """
        model = load_model(self, folder)
        if vocabulary is None:
            vocabulary = real_vocabulary(load_tokenizer(self, folder))
        return LocalTeacher(model, vocabulary, packed)
