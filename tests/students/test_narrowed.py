"""A model and its tokenizer, both with fewer tokens, fit together."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import torch

from nexus.students.narrowed import narrowed

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


@torch.no_grad()
def test_text_gets_the_logits_that_it_had() -> None:
    model, tokenizer = SMALL["with_words"]()
    text = "The word that follows is a word"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    small: Any = narrowed(model, tokenizer, [ids[0].tolist()], "used", multiple=32)
    kept = small.vocabulary.ids
    assert len(kept) % 32 == 0 and len(kept) < len(tokenizer)
    new = small.vocabulary.tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(kept[new], ids)
    before, after = model(input_ids=ids).logits[..., kept], small.model(input_ids=new).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert len(small.findings) == 4
    assert small.model.config.eos_token_id == small.vocabulary.tokenizer.eos_token_id


def test_tokens_that_only_the_configuration_names_are_kept() -> None:
    model, tokenizer = SMALL["with_words"]()
    odd = len(tokenizer) - 1
    model.generation_config.eos_token_id = [model.config.eos_token_id, odd]
    small = narrowed(model, tokenizer, [], "used")
    assert odd in small.vocabulary.places
    assert small.model.generation_config.eos_token_id[1] == small.vocabulary.places[odd]
