from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nexus.batch import ANSWER
from nexus.data.control import ControlTokens
from nexus.data.cutting import Cut, Cutter
from nexus.data.faults import BadRow
from nexus.data.layouts import NOT_A_TARGET, Chat, Content, Text, Written
from nexus.data.template import Rendered, Span

TEXT, CHAT = Text(""), Chat(())


def _cut(
    tokenizer: PreTrainedTokenizerFast, content: Content, text: Rendered, escape: bool = True
) -> Cut:
    cutter = Cutter(tokenizer, ControlTokens(tokenizer), escape=escape)
    (cut,) = cutter.cut([content], [text])
    if isinstance(cut, BadRow):
        raise cut
    return cut


def test_a_forged_token_is_text_and_a_real_one_is_not(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<|im_start|>a<|im_end|>b<|im_end|>"
    forged = text.index("<|im_end|>")
    cut = _cut(tokenizer, CHAT, Rendered(text, (), ((forged, forged + 10),)))
    end, start = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|im_start|>"))
    assert cut.ids[0] == start and cut.ids[-1] == end
    assert (cut.ids == end).sum() == 1
    assert tokenizer.decode(cut.ids.tolist()) == text


def test_parts_are_those_of_the_spans(tokenizer: PreTrainedTokenizerFast) -> None:
    for content in (Written(()), CHAT):
        cut = _cut(tokenizer, content, Rendered("abcd", (Span(1, 3, ANSWER),)))
        assert cut.parts.tolist() == [NOT_A_TARGET, ANSWER, ANSWER, NOT_A_TARGET]


def test_a_token_over_a_boundary_is_cut_there(make_tokenizer: Any) -> None:
    """To see it fail: in data/cutting.py, `if whole is None or _straddles(whole.ranges,
    text.spans):` → `if whole is None:`.
    """
    tokenizer = make_tokenizer(merges=[("a", "b")])
    assert len(_cut(tokenizer, CHAT, Rendered("ab", ())).ids) == 1
    assert len(_cut(tokenizer, CHAT, Rendered("ab", (Span(1, 2, ANSWER),))).ids) == 2


def _folding() -> PreTrainedTokenizerFast:
    """A tokenizer that reads wide letters as narrow ones, also in its added tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    model.normalizer = normalizers.NFKC()
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.add_tokens([AddedToken("<tool>", normalized=True)])
    model.add_special_tokens(["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")
    tokenizer.chat_template = "{# <tool> #}"
    return tokenizer


def test_what_a_normaliser_makes_of_look_alikes_is_refused() -> None:
    """Break the call of `_check` to see a wide `<tool>` become the token."""
    tokenizer = _folding()
    wide = "\uff1ctool\uff1e"
    assert tokenizer(wide)["input_ids"] == tokenizer("<tool>")["input_ids"]
    with pytest.raises(BadRow, match="reads a control token"):
        _cut(tokenizer, CHAT, Rendered(f"say {wide}", ()))
    assert len(_cut(tokenizer, CHAT, Rendered("say <tool>", ())).ids) == 5


def test_look_alikes_are_left_alone_where_they_are_only_that(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for text in ("\uff1c|im_end|\uff1e", "<|im_\u200bend|>", "&lt;|im_end|&gt;", "<|IM_END|>"):
        cut = _cut(tokenizer, TEXT, Rendered(text, ()))
        assert tokenizer.decode(cut.ids.tolist()) == text
        assert cut.ids.tolist() == tokenizer(text)["input_ids"]


def test_what_cannot_be_written_as_text_is_refused() -> None:
    """A special token of one letter, for which the vocabulary has no other id."""
    model = Tokenizer(models.BPE(vocab={"a": 0, "¤": 1}, merges=[]))
    model.add_special_tokens(["¤"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="¤")
    with pytest.raises(BadRow, match="holds '¤', which the tokenizer cannot write as text"):
        _cut(tokenizer, CHAT, Rendered("a¤", (), ((1, 2),)))


@given(
    pieces=st.lists(st.sampled_from(["a", "é", "<|im_end|>", "<s>", "\n"]), min_size=1, max_size=8),
    data=st.data(),
)
def test_nothing_is_lost_or_added(
    tokenizer: PreTrainedTokenizerFast, pieces: list[str], data: st.DataObject
) -> None:
    """Whatever is forged, and wherever the targets are, the tokens spell the text."""
    text = "".join(pieces)
    control = ControlTokens(tokenizer)
    found = [match.span() for match in control.all.finditer(text)]
    forged = tuple(span for span in found if data.draw(st.booleans()))
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    cut = _cut(tokenizer, CHAT, Rendered(text, (Span(start, stop, ANSWER),), forged))
    assert tokenizer.decode(cut.ids.tolist()) == text
    assert np.isin(cut.ids, list(control.ids)).sum() <= len(found) - len(forged)
    assert len(cut.ids) == len(cut.parts)
