"""Pieces are what stands in the documents, and every layout holds the same targets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from nexus.training.invariants.pieces import (
    BEFORE,
    FEWEST_TARGETS,
    LENGTHS,
    in_rows,
    padded_left,
    pieces_of,
    singly,
)

CPU = torch.device("cpu")


def test_pieces_are_parts_of_documents_as_they_were_before_the_shift(
    scene: SimpleNamespace,
) -> None:
    documents = scene.make_documents([30, 24, 28])
    pieces = pieces_of(scene.in_rows([documents], 90))
    assert [len(piece) for piece in pieces[:3]] == list(LENGTHS[:3])
    for piece, document in zip(pieces[:3], documents, strict=True):
        start = max(int(np.flatnonzero(document.is_target[1:])[0]) + 1 - BEFORE, 0)
        part = slice(start, start + len(piece))
        assert np.array_equal(piece.ids, document.ids[part])
        assert np.array_equal(piece.is_target[1:], document.is_target[part][1:])
    assert all(piece.target_count >= FEWEST_TARGETS for piece in pieces)
    assert sum(map(len, pieces)) <= 128


def test_late_targets_are_found(scene: SimpleNamespace) -> None:
    late = scene.make_document(range(50), [False] * 44 + [True] * 6)
    (piece,) = pieces_of(scene.in_rows([[late]], 60))
    assert piece.ids.tolist() == list(range(40, 50))
    assert piece.target_count == 6


def test_one_long_document_gives_several_pieces(scene: SimpleNamespace) -> None:
    pieces = pieces_of(scene.in_rows([[scene.make_document(np.arange(200) % 60)]], 200))
    assert [len(piece) for piece in pieces] == list(LENGTHS)
    starts = [int(piece.ids[0]) for piece in pieces]
    assert len(set(starts)) == len(starts)


def test_no_targets_give_no_pieces(scene: SimpleNamespace) -> None:
    silent = scene.make_document(range(9), [False] * 9)
    assert pieces_of(scene.in_rows([[silent]])) == []


def test_every_layout_holds_the_same_targets(scene: SimpleNamespace) -> None:
    pieces = scene.make_documents([16, 11, 19])
    tight, loose = singly(pieces, CPU), singly(pieces, CPU, room=7)
    left = padded_left(pieces, CPU, scene.VOCABULARY)
    packed = in_rows([pieces], 50, CPU)
    assert loose.input_ids.shape[1] == tight.input_ids.shape[1] + 7 == 26
    assert left.documents[1, 0] == -1 and left.documents[1, -1] == 0
    for batch in (loose, left, packed):
        assert torch.equal(batch.at_targets().tokens, tight.at_targets().tokens)
