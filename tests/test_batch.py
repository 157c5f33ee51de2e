from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from nexus.batch import ANSWER, IGNORED, PADDING, RATIONALE, Batch, until_targets


@pytest.fixture
def batch() -> Batch:
    """Two rows: two documents, and one after padding."""
    return Batch(
        input_ids=torch.tensor([[5, 6, 7, 8], [0, 9, 10, 11]]),
        targets=torch.tensor([[6, IGNORED, 8, IGNORED], [IGNORED, 10, 11, 12]]),
        position_ids=torch.tensor([[0, 1, 0, 1], [0, 0, 1, 2]]),
        documents=torch.tensor([[0, 0, 1, 1], [PADDING, 0, 0, 0]]),
        parts=torch.tensor([[ANSWER] * 4, [ANSWER, RATIONALE, RATIONALE, ANSWER]]),
        tasks=torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]),
        task_names=("math", "code"),
        keys=(("a", "b"), ("c",)),
    )


def test_targets_are_in_row_major_order_without_the_ignored(batch: Batch) -> None:
    at = batch.at_targets()
    assert at.tokens.tolist() == [6, 8, 10, 11, 12]
    assert at.parts.tolist() == [ANSWER, ANSWER, RATIONALE, RATIONALE, ANSWER]
    assert at.tasks.tolist() == [0, 1, 1, 1, 1]
    assert batch.target_count == 5
    # The order in which a mask picks hidden states.
    assert batch.input_ids[batch.is_target].tolist() == [5, 7, 9, 10, 11]


def test_rows_are_a_batch_that_keeps_everything(batch: Batch) -> None:
    parts = [batch.rows(0, 1), batch.rows(1, 2)]
    tokens = torch.cat([part.at_targets().tokens for part in parts])
    assert tokens.tolist() == batch.at_targets().tokens.tolist()
    assert [part.keys for part in parts] == [(("a", "b"),), (("c",),)]
    assert parts[1].task_names == ("math", "code")
    assert parts[1].position_ids.tolist() == [[0, 0, 1, 2]]


def test_no_rows_have_no_targets(batch: Batch) -> None:
    empty = batch.rows(0, 0)
    assert empty.target_count == 0
    assert len(empty.at_targets().tokens) == 0


def test_moves_as_a_whole(batch: Batch) -> None:
    moved = batch.to("meta")
    tensors = [moved.input_ids, moved.targets, moved.position_ids, moved.documents]
    assert all(tensor.is_meta for tensor in (*tensors, moved.parts, moved.tasks))
    assert moved.keys == batch.keys
    assert not batch.input_ids.is_meta


def test_is_frozen(batch: Batch) -> None:
    with pytest.raises(FrozenInstanceError):
        batch.targets = batch.input_ids  # type: ignore[misc]


@pytest.mark.parametrize(("wanted", "batches"), [(1, 1), (5, 1), (6, 2), (10, 2), (99, 3)])
def test_no_batch_more_is_read_than_holds_so_many_targets(
    batch: Batch, wanted: int, batches: int
) -> None:
    """To see it fail: in batch.until_targets, look for the end before the batch is given out."""
    rest = iter([batch] * 3)
    assert len(list(until_targets(rest, wanted))) == batches
    assert len(list(rest)) == 3 - batches
