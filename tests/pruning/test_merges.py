"""What a token is built from, against what the tokenizers library does."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, models

from nexus.pruning.merges import Merges


def _merges(tokens: list[str], merges: list[tuple[str, str]], **settings: Any) -> Merges:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, **settings))
    return Merges(json.loads(tokenizer.to_str()))


def test_ancestors_are_those_on_the_way_that_encoding_takes() -> None:
    merges = _merges(
        ["a", "b", "c", "ab", "bc", "abc"], [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]
    )
    assert merges.ancestors("abc") == {"a", "b", "c", "bc"}  # and not ab, which never comes about
    assert merges.ancestors("ab") == {"a", "b"}
    assert merges.ancestors("a") == set()


def test_a_token_that_no_merge_leads_to_needs_nothing() -> None:
    merges = _merges(["a", "b", "c", "ab", "abc"], [("a", "b")])
    assert merges.ancestors("abc") == set()


def test_a_suffix_at_the_end_of_words() -> None:
    merges = _merges(
        ["a", "b", "a</w>", "b</w>", "ab</w>", "aab</w>"],
        [("a", "b</w>"), ("a", "ab</w>")],
        end_of_word_suffix="</w>",
    )
    assert merges.ancestors("aab</w>") == {"a", "b</w>", "ab</w>"}
    assert merges.alphabet == {"a", "b", "a</w>", "b</w>"}


def test_a_prefix_inside_words() -> None:
    merges = _merges(
        ["a", "##a", "##b", "ab", "##ab"],
        [("a", "##b"), ("##a", "##b")],
        continuing_subword_prefix="##",
    )
    assert merges.ancestors("ab") == {"a", "##b"}
    assert merges.ancestors("##ab") == {"##a", "##b"}
    assert merges.order == {"ab": 0, "##ab": 1}


def test_characters_that_are_no_token_are_bytes() -> None:
    some = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = _merges([*some, "a", "é", "aé"], [("a", "é")], byte_fallback=True, unk_token="a")
    assert merges.alphabet == set(some)
    assert merges.ancestors("aé") == {"a", "é"}


def test_only_merges_within_what_is_kept_are_left_and_in_their_order() -> None:
    merges = _merges(["a", "b", "ab", "ba", "aba"], [("b", "a"), ("a", "b"), ("ab", "a")])
    assert merges.among({"a", "b", "ab", "aba"}) == [["a", "b"], ["ab", "a"]]
