"""Padded tensors as callers have them: what must hold of them, and positions in them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nexus.batch import IGNORED
from nexus.errors import UsageError


def check_padded(ids: Tensor, labels: Tensor, mask: Tensor, vocabulary: int | None = None) -> None:
    """Make sure that padded tensors fit together and hold token ids.

    Raises:
        UsageError: naming what does not, and what would.
    """
    _check_shapes(ids, labels, mask)
    real = mask != 0
    begins = (real[:, 1:] & ~real[:, :-1]).sum(dim=1) + real[:, 0]
    beyond = torch.iinfo(torch.long).max if vocabulary is None else vocabulary
    checks = (
        (labels < 0) & (labels != IGNORED) | (labels >= beyond),
        real & ((ids < 0) | (ids >= beyond)),
        begins > 1,
        real & (mask != 1),
    )
    # Together, so that an accelerator is waited for once.
    strange, foreign, holes, others = torch.stack([check.any() for check in checks]).tolist()
    known = "" if vocabulary is None else f" from 0 to {vocabulary - 1}"
    if strange:
        worst = labels[checks[0]][0].item()
        raise UsageError(f"labels hold {worst}. Give token ids{known}, or {IGNORED} for no target.")
    if foreign:
        worst = ids[checks[1]][0].item()
        raise UsageError(f"input_ids hold {worst}. Give token ids{known}.")
    if others:
        raise UsageError("attention_mask has values other than 0 and 1. Give 1 for tokens, else 0.")
    if holes:
        raise UsageError(
            "attention_mask has padding between tokens. Pad on the left or the right only; "
            "documents packed into one row are given through nexus.data.loader.collate."
        )


def positions_in_runs(real: Bool[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Counts from 0 wherever tokens or padding begin."""
    columns = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    begins = torch.zeros_like(columns)
    begins[:, 1:] = torch.where(real[:, 1:] != real[:, :-1], columns[:, 1:], 0)
    return columns - begins.cummax(dim=1).values


def _check_shapes(ids: Tensor, labels: Tensor, mask: Tensor) -> None:
    if ids.dim() != 2 or ids.is_floating_point():
        raise UsageError(
            f"input_ids has the shape {tuple(ids.shape)} and type {ids.dtype}. Give token ids as "
            "integers, [rows, length]; one row is input_ids[None]."
        )
    for name, tensor in (("labels", labels), ("attention_mask", mask)):
        if tensor.shape != ids.shape:
            raise UsageError(
                f"{name} has the shape {tuple(tensor.shape)}, input_ids {tuple(ids.shape)}. Give "
                "them the same shape; labels are not shifted."
            )
        if tensor.device != ids.device:
            raise UsageError(
                f"{name} is on {tensor.device}, input_ids on {ids.device}. Move them to one device."
            )
    if labels.is_floating_point():
        raise UsageError(f"labels are of type {labels.dtype}. Give token ids as integers.")
