"""Contexts and continuations are cut where the context alone would end."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nexus.errors import UsageError
from nexus.evaluation.tasks.encoding import Encoder, Request, window


def merging(adds_bos: bool = False, bos: str | None = "<s>") -> PreTrainedTokenizerFast:
    """A token a byte, but ` a` and `bc` are one; and a token that begins a text, if asked for."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "Ġa", "bc"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "a"), ("b", "c")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos)


def texts(tokenizer: Any, encoded: Any) -> tuple[str, str]:
    cut = len(encoded.tokens) - encoded.scored
    return tokenizer.decode(encoded.tokens[:cut]), tokenizer.decode(encoded.tokens[cut:])


def test_spaces_at_the_end_of_the_context_belong_to_the_continuation(
    model: PreTrainedModel,
) -> None:
    tokenizer = merging()
    encoded = Encoder(model, tokenizer)(Request("x: ", "a"))
    assert texts(tokenizer, encoded) == ("x:", " a")
    assert encoded.scored == 1, "space and letter are one token, as the model learnt them"


def test_the_continuation_is_what_follows_as_many_tokens_as_the_context_has(
    model: PreTrainedModel,
) -> None:
    tokenizer = merging()
    encoded = Encoder(model, tokenizer)(Request("xb", "cd"))
    # Together they are `x`, `bc`, `d`. The context is two tokens, so that only the third is asked.
    assert texts(tokenizer, encoded) == ("xb", "d")


def test_a_text_begins_with_what_the_tokenizer_puts_in_front_and_with_nothing_else(
    model: PreTrainedModel,
) -> None:
    for adds_bos, context in ((False, "x"), (True, "<s>x")):
        tokenizer = merging(adds_bos)
        encoded = Encoder(model, tokenizer)(Request("x", " y"))
        assert texts(tokenizer, encoded) == (context, " y")
    # One that stands there already is not doubled.
    assert texts(merging(True), Encoder(model, merging(True))(Request("<s>x", "y")))[0] == "<s>x"


@pytest.mark.parametrize("context", ["", "  "])
def test_without_context_the_first_token_is_asked_after_the_beginning(
    model: PreTrainedModel, context: str
) -> None:
    encoded = Encoder(model, merging())(Request(context, "xy"))
    assert texts(merging(), encoded) == ("<s>", context + "xy")


def test_without_context_and_beginning_nothing_can_be_asked(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match="no token that begins or ends a text.*Set its bos_token"):
        Encoder(model, merging(bos=None))(Request("", "x"))


def test_what_exceeds_the_window_is_cut_from_the_left(model: PreTrainedModel) -> None:
    tokenizer = merging()
    text = "".join(chr(ord("d") + n % 20) for n in range(300))
    encoded = Encoder(model, tokenizer)(Request(text, "xyz"))
    # The last token is predicted and never read.
    assert len(encoded.tokens) == window(model, tokenizer) + 1 == 257
    assert texts(tokenizer, encoded) == (text[-254:], "xyz")


@pytest.mark.parametrize(("continuation", "tokens"), [("x" * 257, 257), ("", 0)])
def test_a_continuation_must_fit_into_the_window(
    model: PreTrainedModel, continuation: str, tokens: int
) -> None:
    with pytest.raises(UsageError, match=f"has {tokens} tokens, .* takes 1 to 256"):
        Encoder(model, merging())(Request("x", continuation))
