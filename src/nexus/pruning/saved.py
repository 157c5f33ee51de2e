"""Saved: a model that was cut is read again as what it is, wherever it was cut."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nexus import hub
from nexus.architectures import loaded_apart
from nexus.disk import ASIDE
from nexus.errors import NexusError
from nexus.hub import ModelSource
from nexus.kernels.decoder import evaluated
from nexus.memory import GIB, available_bytes, give_back
from nexus.proofs import Proof
from nexus.ties import check_saved_tie

NAME = "saved and loaded it gives the same logits"
ROOM = 1.2
"""How many times its weights must be free, on the disk and in memory, for a second copy."""


@torch.no_grad()
def survives(model: PreTrainedModel, place: Path | None = None) -> Proof:
    """Write a model, read it again, and compare what both say of a few tokens, bit for bit.

    For a model that nobody is about to save: one write, one reading, and nothing is left of them.

    Args:
        model: which is left as it is.
        place: a folder on whose disk it is written; that of temporary files if there is none.

    Raises:
        NexusError: Loaded again it says something else.
    """
    needed = int(ROOM * sum(weight.nbytes for weight in model.state_dict().values()))
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    where = place or Path(tempfile.gettempdir())
    room = {"memory": available_bytes(model.device), f"the disk of {where}": _free(where)}
    for name, free in room.items():
        if free < needed:
            told = f"a copy takes {needed / GIB:.1f} GiB, and {name} has {free / GIB:.1f} GiB left"
            return Proof(group="pruning", name=NAME, outcome="skipped", detail=told)
    with tempfile.TemporaryDirectory(prefix=f"{ASIDE}saved-", dir=where) as folder:
        with hub.quiet():
            model.save_pretrained(folder)
            if model.get_output_embeddings() is not None:  # type: ignore[no-untyped-call]
                check_saved_tie(model, Path(folder))
            again = _read(model, folder)
        proof = _same(said(model), again)
        del again  # before what it may be mapped from goes
    give_back()
    return proof


@torch.no_grad()
def said(model: PreTrainedModel) -> Tensor:
    """What a model says of a few tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, 16), generator=torch.Generator().manual_seed(0))
    with evaluated(model):
        told: Tensor = model(input_ids=ids.to(model.device))[0]
    return told.float()


def reread(told: Tensor, folder: Path, device: torch.device) -> Proof:
    """What was saved into a folder is loaded as what it was, bit for bit.

    Args:
        told: what it said before it was saved.
        folder: where it lies.
        device: where it said so.

    Raises:
        NexusError: It says something else.
    """
    source = ModelSource(model=str(folder.resolve()), dtype="auto")
    again = hub.load_model(source, Path(), encoders=True)
    nn.Module.to(again, device)
    return _same(told, again)


def _same(told: Tensor, again: PreTrainedModel) -> Proof:
    limit = loaded_apart(again, told)
    difference = float((told - said(again)).abs().max().nan_to_num(nan=torch.inf))
    if difference > limit:
        raise NexusError(
            f"Pruning proved wrong: {NAME}: they differ by {difference:.2g}. Report this with the "
            "model's configuration"
        )
    return Proof(
        group="pruning",
        name=NAME,
        outcome="proved",
        value=difference,
        limit=limit,
        detail=f"largest difference of logits {difference:.2g}",
    )


def _read(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """As the model's own class, which need not be one of those that are distilled."""
    asked = {"attn_implementation": getattr(model.config, "_attn_implementation", None)}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value}
    again: PreTrainedModel = type(model).from_pretrained(folder, dtype=model.dtype, **given)
    nn.Module.to(again, model.device)
    return again


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
