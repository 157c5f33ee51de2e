"""Text that is passed from Python becomes rows of whole sequences."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus.errors import UsageError
from nexus.models.compression.distillation.text import rows_of_text

TINY = runpy.run_path(str(Path(__file__).parents[4] / "examples" / "tiny.py"))


def test_rows_hold_the_tokens_in_their_order_and_the_rest_is_dropped() -> None:
    model, tokenizer = TINY["make_model"](layers=1, seed=1), TINY["make_tokenizer"]()
    texts = TINY["sentences"](60)
    stream = [number for text in texts for number in tokenizer(text)["input_ids"]]
    length = model.config.max_position_embeddings
    assert len(stream) > length
    for data in (texts, [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]):
        batches = rows_of_text(data, tokenizer, model, without="it is done without")
        rows = torch.cat([batch.input_ids for batch in batches])
        assert rows.shape[1] == length
        assert rows.flatten().tolist() == stream[: len(stream) // length * length]
    with pytest.raises(UsageError, match="or none, and it is done without"):
        rows_of_text([torch.arange(3)], None, model, without="it is done without")


def test_padding_is_not_read() -> None:
    """To see it fail: flatten the ids whatever the mask says."""
    model = TINY["make_model"](layers=1, seed=1)
    length = model.config.max_position_embeddings
    ids = torch.randint(3, 200, (6, length))
    mask = torch.arange(length) < torch.tensor([length, 1, 9, length - 1, length, 30])[:, None]
    real = torch.cat([row[keep] for row, keep in zip(ids, mask, strict=True)])
    padded = {"input_ids": torch.where(mask, ids, 0), "attention_mask": mask.long()}
    rows = torch.cat(
        [batch.input_ids for batch in rows_of_text([padded], None, model, without="-")]
    )
    assert torch.equal(rows.flatten(), real[: len(real) // length * length])
    (whole,) = rows_of_text([{"input_ids": ids[:1].tolist()}], None, model, without="-")
    assert torch.equal(whole.input_ids, ids[:1])


@pytest.mark.parametrize("data", ["one long text", {"input_ids": [1, 2]}, 7, None])
@pytest.mark.usefixtures("unchecked")
def test_one_text_is_no_list_of_texts(data: Any) -> None:
    """Of a string, each letter would be a text. To see it fail: take whatever can be counted."""
    model, tokenizer = TINY["make_model"](layers=1, seed=1), TINY["make_tokenizer"]()
    with pytest.raises(UsageError, match="give several texts or tensors of token ids, as a list"):
        rows_of_text(data, tokenizer, model, without="-")


def test_an_empty_text_has_no_tokens() -> None:
    model, tokenizer = TINY["make_model"](layers=1, seed=1), TINY["make_tokenizer"]()
    with pytest.raises(UsageError, match="holds 0 tokens"):
        rows_of_text([""], tokenizer, model, without="-")
