"""Tokenizers are one when they give the same ids to the same text, whatever their sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nexus.errors import UsageError
from nexus.tokenizers import PROBES, compare_tokenizers, real_vocabulary, shared_vocabulary

LETTERS = [chr(code) for code in range(33, 127)]
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("1", "2")]


def tokenizer(
    change: Callable[[Tokenizer], None] = lambda _: None,
    merges: list[tuple[str, str]] = MERGES,
    swap: tuple[int, int] = (0, 0),
) -> PreTrainedTokenizerFast:
    """A small byte-pair tokenizer, with two of its ids swapped and `change` applied."""
    tokens = ["<unk>", "<s>", *LETTERS, "Ġ", *sorted(a + b for a, b in MERGES)]
    tokens[swap[0]], tokens[swap[1]] = tokens[swap[1]], tokens[swap[0]]
    ids = {token: number for number, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    change(inner)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def with_lowercase(inner: Tokenizer) -> None:
    inner.normalizer = normalizers.Lowercase()


def with_digits_apart(inner: Tokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])


def with_prefix_space(inner: Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def with_bos(inner: Tokenizer) -> None:
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])


def test_a_tokenizer_is_itself() -> None:
    compare_tokenizers(tokenizer(), tokenizer())


def test_permuted_ids_of_the_same_size_are_found() -> None:
    """Same size, same tokens, same merges: only the map tells them apart."""
    a, b = LETTERS.index("q") + 2, LETTERS.index("Z") + 2
    with pytest.raises(UsageError, match=rf"token 'Z' is {b} in the teacher's and {a} in the stu"):
        compare_tokenizers(tokenizer(), tokenizer(swap=(a, b)))


@pytest.mark.parametrize("owner", ["teacher", "student"])
def test_an_added_token_is_found(owner: str) -> None:
    plain, more = tokenizer(), tokenizer()
    more.add_tokens(["<new>"])
    pair = (more, plain) if owner == "teacher" else (plain, more)
    with pytest.raises(UsageError, match=r"token '<new>'.*absent.*cross-tokenizer"):
        compare_tokenizers(*pair)


@pytest.mark.parametrize("change", [with_lowercase, with_digits_apart, with_prefix_space, with_bos])
def test_same_map_other_behaviour_is_found(change: Callable[[Tokenizer], None]) -> None:
    ours = tokenizer(change)
    assert ours.get_vocab() == tokenizer().get_vocab()
    with pytest.raises(UsageError, match=r"encodes '.*' as \[.*\], the student's as \["):
        compare_tokenizers(tokenizer(), ours)


def test_merges_in_another_order_are_found() -> None:
    """`the` is one token only where t and h merge first."""
    merges = [("t", "h"), ("a", "n"), ("1", "2")]
    with pytest.raises(UsageError, match="the student's as"):
        compare_tokenizers(tokenizer(), tokenizer(merges=merges))


def test_there_are_fifty_probes_and_no_two_alike() -> None:
    assert len(set(PROBES)) == len(PROBES) >= 50


def test_the_real_vocabulary_ends_with_the_highest_id() -> None:
    ours = tokenizer()
    size = len(ours.get_vocab())
    assert real_vocabulary(ours) == size
    ours.add_tokens(["<new>"])
    assert real_vocabulary(ours) == size + 1


def test_rows_of_padding_are_noticed_on_both_sides() -> None:
    ours = tokenizer()
    size = real_vocabulary(ours)
    assert shared_vocabulary(ours, size, size) == (size, None)
    vocabulary, notice = shared_vocabulary(ours, size + 7, size + 5)
    assert vocabulary == size
    assert notice is not None
    assert "the teacher's 7 and the student's 5" in notice


@pytest.mark.parametrize(("teacher", "student", "name"), [(-1, 0, "teacher"), (0, -1, "student")])
def test_a_head_without_a_row_for_each_token_is_refused(
    teacher: int, student: int, name: str
) -> None:
    ours = tokenizer()
    size = real_vocabulary(ours)
    with pytest.raises(UsageError, match=f"The {name}'s head has {size - 1} rows"):
        shared_vocabulary(ours, size + teacher, size + student)
