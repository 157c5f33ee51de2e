"""Documents that are tokenised already, and what a template says itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus.errors import UsageError
from nexus.pruning.corpus import Texts, spoken, vocabulary_of

MAKE = runpy.run_path(str(Path(__file__).with_name("test_vocabulary.py")))["make"]


def test_documents_are_text_again_as_often_as_they_are_asked_for() -> None:
    tokenizer = MAKE()
    documents = [np.array(tokenizer("the cat")["input_ids"]), tokenizer("a dog")["input_ids"]]
    texts = Texts(tokenizer, documents)
    assert list(texts) == list(texts) == ["<|begin|>the cat<|end|>", "<|begin|>a dog<|end|>"]


def test_what_documents_use_is_kept_and_held_out_ones_are_measured() -> None:
    tokenizer = MAKE()
    documents = [tokenizer("the cat and a dog")["input_ids"]]
    small = vocabulary_of(tokenizer, documents, "used", heldout=[tokenizer("weather")["input_ids"]])
    assert set(documents[0]) <= set(small.places)
    assert small.corpus.share == 1.0
    assert small.heldout is not None and small.heldout.after > small.heldout.before


def test_words_of_the_chat_template_are_kept() -> None:
    tokenizer: Any = MAKE()
    before = tokenizer.chat_template
    tokenizer.chat_template = (
        "another {{ '\n weather' }}{% if a == \"x\" %}{{ messages }}{% endif %}"
    )
    try:
        assert spoken(tokenizer) == ["another ", "\n weather", "x"]
        small = vocabulary_of(tokenizer, [], "used")
        for text in ("another ", " weather"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert set(ids) <= set(small.places)
    finally:
        tokenizer.chat_template = before


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers.tokenization_python import PythonBackend

    class Slow(PythonBackend):
        @property
        def vocab_size(self) -> int:
            return 0

        def get_vocab(self) -> dict[str, int]:
            return {}

    with pytest.raises(UsageError, match="Slow is a slow tokenizer, written in Python"):
        vocabulary_of(Slow(), [], "used")
