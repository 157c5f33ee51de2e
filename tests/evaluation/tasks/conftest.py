"""Files of items, and a model and a tokenizer that are made on the spot."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "tiny.py"))

WriteItems = Callable[[Sequence[Any]], str]


@pytest.fixture
def model() -> PreTrainedModel:
    made: PreTrainedModel = TINY["make_model"](layers=2, seed=1)
    return made


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = TINY["make_tokenizer"]()
    return made


@pytest.fixture
def write_items(tmp_path: Path) -> WriteItems:
    """Writes rows as items.jsonl, strings as they are, and returns the file's name."""

    def write(rows: Sequence[Any]) -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "items.jsonl").write_text("".join(line + "\n" for line in lines))
        return "items.jsonl"

    return write
