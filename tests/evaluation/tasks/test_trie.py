"""A trie holds every beginning once, and a node sees the text that leads to it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nexus.evaluation.tasks.trie import Trie, attention

TEXTS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=5
)


@given(TEXTS)
def test_each_text_can_be_read_from_its_path(texts: list[tuple[int, ...]]) -> None:
    trie = Trie(texts)
    for text, path in zip(texts, trie.paths, strict=True):
        assert tuple(trie.tokens[node] for node in path) == text
        assert [trie.positions[node] for node in path] == list(range(len(text)))


@given(TEXTS)
def test_there_is_a_node_for_each_different_beginning(texts: list[tuple[int, ...]]) -> None:
    beginnings = {text[:end] for text in texts for end in range(1, len(text) + 1)}
    assert len(Trie(texts)) == len(beginnings)


@given(TEXTS)
def test_a_node_sees_its_own_beginning_and_nothing_else(texts: list[tuple[int, ...]]) -> None:
    trie = Trie(texts)
    seen = trie.visible()
    for path in trie.paths:
        for end, node in enumerate(path, start=1):
            assert seen[node].nonzero()[0].tolist() == sorted(path[:end])


def test_one_text_and_its_beginning_do_not_branch() -> None:
    assert not Trie([(1, 2, 3), (1, 2)]).branches
    assert Trie([(1, 2, 3), (1, 3)]).branches
    assert Trie([(1,), (2,)]).branches


def test_padding_sees_itself_and_is_seen_by_nobody() -> None:
    added = attention([Trie([(1, 2), (1, 3)]), Trie([(1,)])], 4, torch.float32)
    assert added.shape == (2, 1, 4, 4)
    assert (added[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert (added[1, 0] == 0).int().tolist() == torch.eye(4).int().tolist()
    assert added.min() == torch.finfo(torch.float32).min
