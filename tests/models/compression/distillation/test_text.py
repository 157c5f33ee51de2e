"""Text that is passed from Python becomes rows of whole sequences."""

from __future__ import annotations

import runpy
from pathlib import Path

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
