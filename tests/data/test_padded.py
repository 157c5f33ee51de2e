from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nexus.batch import IGNORED
from nexus.data.padded import check_padded, positions_in_runs
from nexus.errors import UsageError

IDS = torch.tensor([[3, 1, 2], [0, 1, 2]])
ONES = torch.ones_like(IDS)


def test_positions_restart_with_tokens_and_with_padding() -> None:
    real = torch.tensor([[False, False, True, True, False]])
    assert positions_in_runs(real).tolist() == [[0, 1, 0, 1, 0]]


@pytest.mark.parametrize("vocabulary", [None, 4])
def test_what_fits_passes(vocabulary: int | None) -> None:
    labels = torch.tensor([[IGNORED, 3, 0], [IGNORED] * 3])
    check_padded(IDS, labels, ONES, vocabulary)
    # What stands where nothing stands is nobody's business.
    ids = torch.tensor([[-1, 1, 2], [99, 1, 2]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1]])
    check_padded(ids, torch.full_like(ids, IGNORED), mask, vocabulary)


@pytest.mark.parametrize(
    ("ids", "labels", "reason"),
    [
        (IDS, IDS + 1, "labels hold 4. Give token ids from 0 to 3, or -100"),
        (IDS, IDS - 1, "labels hold -1. Give token ids from 0 to 3"),
        (IDS + 4, IDS, "input_ids hold 7. Give token ids from 0 to 3"),
        (IDS - 1, IDS, "input_ids hold -1. Give token ids from 0 to 3"),
    ],
)
def test_ids_beyond_the_vocabulary_never_reach_a_kernel(
    ids: Tensor, labels: Tensor, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        check_padded(ids, labels, ONES, 4)
