"""How much probability a model gives to head rows that stand for no token."""

from __future__ import annotations

from dataclasses import replace

import torch

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import evaluated
from nexus.kernels.lm_head import Trunk

MOST_MASS = 1e-4
"""On average over positions. A trained model gives its padding some 1e-8."""

POSITIONS = 128


@torch.no_grad()
def padding_mass(trunk: Trunk, batch: Batch) -> float:
    """The mean probability of all padding rows together, on the first targets of a batch.

    Args:
        trunk: The model; its `vocabulary` says where its padding begins.
        batch: Real text.
    """
    head = trunk.head()
    if head.weight.shape[0] == trunk.vocabulary or not bool(batch.is_target.any()):
        return 0.0
    with evaluated(trunk.model):
        hidden = trunk.hidden(batch)[batch.is_target][:POSITIONS]
    whole = replace(head, vocabulary=head.weight.shape[0]).logits(hidden)
    return float(whole.softmax(-1)[:, trunk.vocabulary :].sum(-1).mean())


def check_teacher_padding(mass: float) -> None:
    """Make sure that leaving the padding out leaves nothing of the teacher out.

    Raises:
        UsageError: It gives its padding more than `MOST_MASS`.
    """
    if not mass <= MOST_MASS:
        raise UsageError(
            f"The teacher gives {mass:.2g} of its probability to head rows beyond its tokenizer's "
            f"vocabulary, where at most {MOST_MASS:g} is rounding: those rows stand for tokens. "
            "Name the tokenizer that it was trained with, or remove the rows with "
            "resize_token_embeddings."
        )
