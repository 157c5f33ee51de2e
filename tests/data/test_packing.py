from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.batch import ANSWER
from nexus.data.chat import Example, stable_key
from nexus.data.packing import OverLong, fitted, pack, pack_in_order
from nexus.errors import UsageError

lengths_in_ten = st.lists(st.integers(1, 10), max_size=60)


def _example(size: int, *, prompt: int = 0, is_text: bool = True) -> Example:
    ids = np.arange(size, dtype=np.int32)
    return Example(
        ids=ids,
        is_target=np.arange(size) >= prompt,
        parts=np.full(size, ANSWER, dtype=np.int8),
        task="t",
        key=stable_key(ids, "t"),
        place="f:3",
        is_text=is_text,
    )


@pytest.mark.parametrize("packer", [pack, pack_in_order])
@given(lengths=lengths_in_ten)
def test_every_document_once_and_no_row_too_full(packer, lengths: list[int]) -> None:  # type: ignore[no-untyped-def]
    rows = packer(lengths, 10)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 10 for row in rows)


@given(lengths=lengths_in_ten)
def test_best_fit_decreasing_is_within_its_bound(lengths: list[int]) -> None:
    fewest = -(-sum(lengths) // 10)
    # No two rows could be one, and the theorem: at most 11/9 of the optimum plus 6/9.
    sums = sorted(sum(lengths[number] for number in row) for row in pack(lengths, 10))
    assert all(one + other > 10 for one, other in zip(sums, sums[1:], strict=False))
    assert len(sums) <= max(fewest, 11 / 9 * _optimum_bound(lengths) + 6 / 9)


def _optimum_bound(lengths: list[int]) -> int:
    """An upper bound of the optimum: first fit without sorting."""
    rooms: list[int] = []
    for length in lengths:
        for at, room in enumerate(rooms):
            if length <= room:
                rooms[at] -= length
                break
        else:
            rooms.append(10 - length)
    return len(rooms)


def test_fits_where_fitting_is_possible() -> None:
    assert sorted(pack([6, 4, 7, 3, 5, 5], 10)) == [[0, 1], [2, 3], [4, 5]]


@given(lengths=lengths_in_ten)
def test_in_order_keeps_the_order(lengths: list[int]) -> None:
    rows = pack_in_order(lengths, 10)
    assert [number for row in rows for number in row] == list(range(len(lengths)))


@pytest.mark.parametrize("lengths", [[11], [0]])
def test_impossible_lengths(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="from 1 to 10"):
        pack(lengths, 10)


def test_a_hundred_thousand_documents_take_no_time() -> None:
    lengths = np.random.default_rng(0).integers(1, 513, size=100_000)
    start = time.perf_counter()
    rows = pack(lengths.tolist(), 512)
    assert time.perf_counter() - start < 10
    assert lengths.sum() / (len(rows) * 512) > 0.99


@pytest.mark.parametrize("policy", ["error", "split", "truncate", "drop"])
def test_what_fits_is_left_alone(policy: OverLong) -> None:
    example = _example(8)
    assert fitted(example, 8, policy)[0] is example


def test_split_pieces_are_documents_of_their_own() -> None:
    pieces = fitted(_example(19), 8, "split")
    assert [piece.ids.tolist() for piece in pieces] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 19)),
    ]
    assert [piece.key for piece in pieces] == [stable_key(piece.ids, "t") for piece in pieces]


def test_truncate_cuts_the_end() -> None:
    (piece,) = fitted(_example(19, prompt=5, is_text=False), 8, "truncate")
    assert piece.ids.tolist() == list(range(8)) and piece.truncated
    assert piece.target_count == 3
    assert piece.key == stable_key(piece.ids, "t")


def test_drop_leaves_out() -> None:
    assert fitted(_example(9), 8, "drop") == []


def test_error_names_place_lengths_and_remedy() -> None:
    with pytest.raises(UsageError, match=r"f:3: 9 tokens, over sequence_length 8.*data.over_long"):
        fitted(_example(9), 8, "error")


def test_only_texts_are_split() -> None:
    with pytest.raises(UsageError, match=r"f:3: 9 tokens.*only plain texts can be split.*truncate"):
        fitted(_example(9, is_text=False), 8, "split")
