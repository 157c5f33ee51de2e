"""A tokenizer and batches for students to be built with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nexus.batch import IGNORED, PADDING, Batch


@pytest.fixture
def rows() -> Callable[..., Batch]:
    """Rows of one document each: as long as said, of random tokens, padded at the end."""

    def build(*lengths: int, vocabulary: int = 40) -> Batch:
        length = max(lengths)
        ends = torch.tensor(lengths)[:, None]
        tokens = torch.randint(vocabulary, (len(lengths), length))
        inside = torch.arange(length) < ends
        zeros = torch.zeros_like(tokens)
        return Batch(
            input_ids=tokens,
            targets=torch.full_like(tokens, IGNORED),
            position_ids=torch.where(inside, torch.arange(length), torch.arange(length) - ends),
            documents=torch.where(inside, 0, PADDING),
            parts=zeros,
            tasks=zeros,
        )

    return build
