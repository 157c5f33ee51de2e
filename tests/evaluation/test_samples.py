from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nexus.evaluation.samples import continuations


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """Token i is the word w<i>; w0 ends a text."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w99"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", unk_token="w99")


def test_both_continue_the_same_prompt_greedily(
    tiny_model: Any, words: PreTrainedTokenizerFast
) -> None:
    teacher, student = tiny_model(seed=1), tiny_model(seed=2)
    student.train()
    student.generation_config.do_sample = True
    prompts = [[5, 6, 7], [9]]
    found = continuations(teacher, student, words, prompts, new_tokens=5)
    assert [sample.prompt for sample in found] == ["w5 w6 w7", "w9"]
    assert found == continuations(teacher, student, words, prompts, new_tokens=5)
    assert student.training

    ids = words("w5 w6 w7", return_tensors="pt").input_ids
    expected = words.decode(teacher.eval()(ids).logits[0, -1].argmax())
    assert found[0].teacher.split()[0] == expected
    assert len(found[0].teacher.split()) <= 5


def test_the_end_of_text_ends_it(tiny_model: Any, words: PreTrainedTokenizerFast) -> None:
    model = tiny_model(tied=False)
    model.get_output_embeddings().weight.data.zero_()
    found = continuations(model, model, words, [[5]], new_tokens=5)
    assert found[0].teacher == ""
