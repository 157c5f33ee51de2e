"""Candidates: models to be measured, by the name that a user gives them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus import fingerprint, hub, window
from nexus.errors import UsageError
from nexus.evaluation.size import size
from nexus.hub import Dtype, ModelSource
from nexus.pruning.narrow import narrow
from nexus.results import Size, Subject


@dataclass(frozen=True)
class Candidate:
    """A model that is loaded when it is first needed: what was kept of it may do."""

    name: str
    source: ModelSource
    folder: Path
    """What relative paths are relative to."""
    tokens_of: Candidate | None = None
    """A model that was cut out of this one with fewer tokens, which this one is renormalised to."""
    encoders: bool = False
    """Whether it may be an encoder, too."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._own_tokenizer if self.tokens_of is None else self.tokens_of.tokenizer

    @cached_property
    def model(self) -> PreTrainedModel:
        if self.tokens_of is None:
            return self._whole
        known = self._own_tokenizer.get_vocab()
        fewer = self.tokens_of.tokenizer.get_vocab()
        ids = torch.tensor([known[token] for token in sorted(fewer, key=fewer.__getitem__)])
        return narrow(self._whole, ids).model

    @cached_property
    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        return hub.load_tokenizer(self.source, self.folder)

    @cached_property
    def _whole(self) -> PreTrainedModel:
        model = hub.load_model(self.source, self.folder, encoders=self.encoders)
        _settle(model)
        return model

    @cached_property
    def subject(self) -> Subject:
        """Its name, its type, and what tells it from all others."""
        weights = fingerprint.of_source(self.source, self.folder)
        if weights is None:  # still to be downloaded
            weights = fingerprint.of_model(self._whole)
        whole = identity(weights, self.tokenizer, self.source.dtype)
        return Subject(name=self.name, fingerprint=whole, dtype=self.source.dtype)

    @cached_property
    def context_limit(self) -> int | None:
        """The most positions that it takes, if it has such a limit."""
        config = hub.load_config(self.source, self.folder, encoders=self.encoders)
        return window.context_limit(config)

    @property
    def size(self) -> Size:
        place = self.folder / Path(self.source.model).expanduser()
        if self.source.gguf_file:
            in_file = (place / self.source.gguf_file).stat().st_size
            return size(self._whole).model_copy(update={"bytes_on_disk": in_file})
        return size(self._whole, place if place.is_dir() else None)


def _settle(model: torch.nn.Module) -> None:
    model.requires_grad_(False).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")


def identity(weights: str, tokenizer: PreTrainedTokenizerBase, dtype: str) -> str:
    """What tells a model from all that would answer otherwise.

    Args:
        weights: their fingerprint.
        tokenizer: its own.
        dtype: what it computes in.
    """
    parts = (
        weights,
        fingerprint.of_tokenizer(tokenizer),
        fingerprint.of_chat_template(tokenizer),
        dtype,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def candidate(name: str, dtype: Dtype = "float32", *, encoders: bool = False) -> Candidate:
    """A folder, the name of a model on the hub, or the path of a GGUF file.

    Args:
        name: which one; a path is relative to the working directory.
        dtype: what to hold its weights in.
        encoders: whether it may be an encoder, too.

    Raises:
        UsageError: it is a folder of a model without its weights.
    """
    path = Path(name)
    if (path / "config.json").is_file() and not any(path.glob("*.safetensors")):
        raise UsageError(
            f"model folder {name} holds no weights (*.safetensors). Name a folder that "
            "save_pretrained wrote, or a GGUF file"
        )
    if path.suffix == ".gguf" and path.is_file():
        source = ModelSource(model=str(path.parent), gguf_file=path.name, dtype=dtype)
    else:
        source = ModelSource(model=name, dtype=dtype)
    return Candidate(name, source, Path(), encoders=encoders)
