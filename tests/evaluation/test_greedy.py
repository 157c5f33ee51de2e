"""Every model writes by one rule, and alike whatever else is in its batch."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.evaluation.greedy import write

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))


@pytest.fixture(scope="module")
def model() -> Any:
    return TINY["make_model"](layers=2, seed=1).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return TINY["make_tokenizer"]()


def _by_hand(model: Any, prompt: list[int], steps: int, end: int) -> list[int]:
    """Without cache, padding or generate()."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            new = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if new == end:
            break
        ids.append(new)
    return ids[len(prompt) :]


def test_a_batch_writes_what_each_prompt_would_alone(model: Any, tokenizer: Any) -> None:
    prompts = [tokenizer(text).input_ids for text in ("a", "some longer prompt", "seven")]
    together = write(model, tokenizer, prompts, new_tokens=12, end_ids=[258])
    for prompt, text in zip(prompts, together, strict=True):
        assert text == write(model, tokenizer, [prompt], new_tokens=12, end_ids=[258])[0]
        expected = _by_hand(model, prompt, 12, 258)
        assert text == tokenizer.decode(expected, skip_special_tokens=True)


def test_its_own_settings_do_not_change_what_a_model_writes(model: Any, tokenizer: Any) -> None:
    prompt = [tokenizer("abc").input_ids]
    plain = write(model, tokenizer, prompt, new_tokens=12, end_ids=[258])
    own = model.generation_config
    try:
        model.generation_config = type(own)(
            do_sample=True, temperature=5.0, repetition_penalty=50.0, max_length=5
        )
        mine = model.generation_config
        assert write(model, tokenizer, prompt, new_tokens=12, end_ids=[258]) == plain
        assert model.generation_config is mine, "they are put back"
    finally:
        model.generation_config = own


def test_a_text_ends_before_a_string_and_before_an_end(model: Any, tokenizer: Any) -> None:
    prompt = [tokenizer("abc").input_ids, tokenizer("xy").input_ids]
    whole = write(model, tokenizer, prompt, new_tokens=12, end_ids=[258])
    cut = whole[0][5]
    stopped = write(model, tokenizer, prompt, new_tokens=12, end_ids=[258], stop=[cut])
    assert stopped[0] == whole[0][: whole[0].index(cut)]
    assert stopped[1] == whole[1].split(cut)[0]
    first = _by_hand(model, prompt[0], 1, 258)[0]
    assert write(model, tokenizer, prompt, new_tokens=12, end_ids=[258, first])[0] == ""
