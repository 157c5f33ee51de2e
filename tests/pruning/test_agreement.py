"""Where two encodings of a text are the same, in bytes of it."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from nexus.pruning.agreement import GONE, agreement


def _tokenizer(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


WHOLE = _tokenizer(["a", "b", "é", "ab", "aé"], [("a", "b"), ("a", "é")])


def test_bytes_are_counted_where_both_have_the_same_token() -> None:
    small = _tokenizer(["a", "b", "é", "ab"], [("a", "b")])
    places = np.array([0, 1, 2, 3, GONE])
    found = agreement(WHOLE, small, places, ["abé ab", "aé éb b"])
    # "abé ab" is covered, five letters and a space; of the other é, b and b are alike.
    assert (found.texts, found.covered, found.bytes) == (2, 1, 7 + 9)
    assert found.alike == 7 + 4
    assert (found.before, found.after, found.broken) == (7, 8, 0)
    assert found.share == 11 / 16 and abs(found.longer - 1 / 7) < 1e-12


def test_a_word_that_should_be_the_same_and_is_not_is_counted() -> None:
    small = _tokenizer(["a", "b", "é", "ab", "aé"], [("a", "é")])
    found = agreement(WHOLE, small, np.arange(5), ["ab aé", "b"])
    assert found.broken == 1 and found.covered == 2


def test_nothing_is_nothing() -> None:
    found = agreement(WHOLE, WHOLE, np.arange(5), [])
    assert (found.share, found.longer, found.texts) == (1.0, 0.0, 0)
