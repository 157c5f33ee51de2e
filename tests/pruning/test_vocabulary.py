"""A smaller tokenizer writes its corpus as the whole one did."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nexus.errors import NexusError, UsageError
from nexus.pruning import vocabulary
from nexus.pruning.vocabulary import smaller_vocabulary

WORDS = (
    "the cat and a dog chase another mother bother gather weather together whether".split()  # noqa: SIM905
)
CORPUS = [" ".join(WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))]


@pytest.fixture(scope="module")
def whole() -> PreTrainedTokenizerFast:
    return make()


@cache
def make() -> PreTrainedTokenizerFast:
    """Byte-level, special tokens first and last, a beginning put in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        show_progress=False,
        special_tokens=["<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<|begin|>", "<|end|>")],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = "{{ messages[0]['content'] }}"
    return fast


def _mapped(small: vocabulary.Vocabulary, ids: list[int]) -> list[int]:
    return [small.places[one] for one in ids]


def test_a_corpus_is_written_as_before(whole: PreTrainedTokenizerFast) -> None:
    small = smaller_vocabulary(whole, CORPUS[:1])
    assert len(small.tokenizer) == len(small.ids) < len(whole)
    ids = whole(CORPUS[0])["input_ids"]
    assert small.tokenizer(CORPUS[0])["input_ids"] == _mapped(small, ids)
    assert small.corpus.share == 1.0
    assert (small.corpus.covered, small.corpus.texts) == (1, 1)


@pytest.mark.parametrize(
    "settings", [{"split_special_tokens": True}, {"truncation": True, "max_length": 3}]
)
def test_how_a_tokenizer_was_used_before_is_forgotten(settings: dict[str, Any]) -> None:
    tokenizer = make()
    tokenizer("the <|end|>", **settings)
    try:
        small = smaller_vocabulary(tokenizer, [f"{CORPUS[0]}<|end|>"])
    finally:
        tokenizer("")
    assert (small.corpus.share, small.corpus.broken) == (1.0, 0)
    count = len(tokenizer(CORPUS[0], add_special_tokens=False)["input_ids"])
    assert small.corpus.before == count + 1
    assert len(small.tokenizer(CORPUS[0], add_special_tokens=False)["input_ids"]) == count


def test_everything_else_about_it_stays(whole: PreTrainedTokenizerFast, tmp_path: Any) -> None:
    small = smaller_vocabulary(whole, CORPUS[:1])
    small.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for name in ("bos_token", "eos_token", "pad_token", "chat_template", "all_special_tokens"):
        assert getattr(loaded, name) == getattr(whole, name)
    assert loaded.eos_token_id == small.places[whole.eos_token_id]
    text = "the <tool> unheard-of ünïcode\t日本 <|end|>"
    assert loaded.decode(loaded(text)["input_ids"]) == whole.decode(whole(text)["input_ids"])
    tools = [one(text)["input_ids"].count(one.convert_tokens_to_ids("<tool>"))
             for one in (whole, loaded)]  # fmt: skip
    assert tools == [1, 1]
    assert loaded("")["input_ids"] == [loaded.bos_token_id, loaded.eos_token_id]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.integers(259, 301))
def test_words_whose_tokens_are_kept_are_written_as_before_at_any_size(
    words: list[str], size: int
) -> None:
    tokenizer, text = make(), " ".join(words)
    small = smaller_vocabulary(tokenizer, CORPUS, size)
    assert len(small.ids) <= size
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if set(ids) <= set(small.places):
        assert small.tokenizer(text, add_special_tokens=False)["input_ids"] == _mapped(small, ids)


def test_the_most_frequent_come_first_and_then_those_learnt_first(
    whole: PreTrainedTokenizerFast,
) -> None:
    floor = set(smaller_vocabulary(whole, []).places)
    late = max(whole.get_vocab().values()) - 2  # before the two that were added last
    word = whole.decode([late])
    used = set(smaller_vocabulary(whole, [word]).places)
    corpus = [word * 3, "the"]
    assert set(smaller_vocabulary(whole, corpus, len(used)).places) == used
    assert late in used
    first = set(smaller_vocabulary(whole, [], len(floor) + 1).places) - floor
    assert first == {min(set(whole.get_vocab().values()) - floor)}


def test_used_is_filled_up_to_a_multiple(whole: PreTrainedTokenizerFast) -> None:
    exact = len(smaller_vocabulary(whole, CORPUS[:1]).ids)
    small = smaller_vocabulary(whole, CORPUS[:1], multiple=8)
    assert len(small.ids) % 8 == 0
    assert exact <= len(small.ids) < exact + 8


def test_what_other_text_costs(whole: PreTrainedTokenizerFast) -> None:
    small = smaller_vocabulary(whole, CORPUS[:1], heldout=["whether weather", "zebra"])
    counts = [
        sum(
            len(one(text, add_special_tokens=False)["input_ids"])
            for text in ("whether weather", "zebra")
        )
        for one in (whole, small.tokenizer)
    ]
    assert [small.facts["heldout"][name] for name in ("before", "after")] == counts


@pytest.mark.parametrize(
    ("size", "said"), [(100, "nearest possible is 259"), (999, "nearest possible is 301")]
)
def test_an_impossible_size_is_refused_with_the_nearest(
    whole: PreTrainedTokenizerFast, size: int, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as error:
        smaller_vocabulary(whole, CORPUS, size)
    assert "\n" not in str(error.value)


def test_other_kinds_of_tokenizers_are_refused() -> None:
    for model, kind in (
        (models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), "WordPiece"),
        (models.Unigram([("a", 0.0)], 0, False), "Unigram"),
        (models.WordLevel({"a": 0}, unk_token="a"), "WordLevel"),
    ):
        other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
        with pytest.raises(UsageError, match=f"is a {kind} tokenizer. Only a byte-pair"):
            smaller_vocabulary(other, ["a"])
    random = Tokenizer(models.BPE({"a": 0}, [], dropout=0.1))
    with pytest.raises(UsageError, match="at random"):
        smaller_vocabulary(PreTrainedTokenizerFast(tokenizer_object=random), ["a"])


def test_a_lost_merge_is_noticed(
    whole: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    among = vocabulary.Merges.among
    monkeypatch.setattr(vocabulary.Merges, "among", lambda self, kept: among(self, kept)[1:])
    with pytest.raises(NexusError, match="encoded as before"):
        smaller_vocabulary(whole, CORPUS)
