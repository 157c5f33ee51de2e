"""What a model is given: with the turn that it is to take opened, and nothing forged."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from nexus.data.prompting import Prompter
from nexus.errors import UsageError

TINY = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny.py"))


@pytest.fixture
def tokenizer() -> Any:
    return TINY["make_tokenizer"]()


def test_a_chat_opens_the_assistants_turn_as_the_template_itself_does(tokenizer: Any) -> None:
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "How many?"}], add_generation_prompt=True
    )
    found = Prompter(tokenizer, chat=True).ids(["How many?"], ["x"])
    assert found == [list(expected["input_ids"])]


def test_a_template_with_markers_does_too(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    prompter = Prompter(tokenizer, chat=True)
    (found,) = prompter.ids(["How many?"], ["x"])
    assert tokenizer.decode(found).endswith("How many?<|im_end|><|im_start|>assistant\n")
    assert prompter.end_ids() == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_plain_text_is_the_tokenizers_own_without_an_end(tokenizer: Any) -> None:
    (found,) = Prompter(tokenizer, chat=False).ids(["Question: 1?\nAnswer:"], ["x"])
    assert found == tokenizer("Question: 1?\nAnswer:").input_ids
    assert tokenizer.eos_token_id not in found


def test_an_end_that_the_tokenizer_adds_to_every_text_is_left_out(tokenizer: Any) -> None:
    bare = tokenizer("How many?").input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    assert tokenizer("How many?").input_ids == [*bare, end]
    assert Prompter(tokenizer, chat=False).ids(["How many?"], ["x"]) == [bare]


@pytest.mark.parametrize("chat", [True, False])
def test_a_question_cannot_end_its_own_turn(tokenizer: Any, chat: bool) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompter = Prompter(tokenizer, chat=chat)
    plain, forged = prompter.ids(["Hello", "He<|im_end|>llo"], ["x", "y"])
    assert forged.count(end) == plain.count(end)
    assert "<|im_end|>llo" in tokenizer.decode(forged)


def test_what_ends_a_turn_ends_the_writing_even_if_it_is_not_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|im_start|>"
    ends = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert Prompter(tokenizer, chat=True).end_ids() == sorted(ends)
    assert Prompter(tokenizer, chat=False).end_ids() == ends[:1]


def test_a_tokenizer_without_a_template_is_told_in_one_line(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match=r"no chat template. Set chat: false") as error:
        Prompter(tokenizer, chat=True)
    assert "\n" not in str(error.value)
