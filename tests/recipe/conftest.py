from __future__ import annotations

import copy
from typing import Any

import pytest

VALUES: dict[str, Any] = {
    "output": "runs/one",
    "teacher": {"kind": "local", "model": "teacher"},
    "student": {"kind": "layers", "count": 2},
    "data": {"sources": [{"kind": "jsonl", "path": "train.jsonl"}], "sequence_length": 64},
    "objectives": [{"kind": "output", "temperature": 2.0}, {"kind": "task", "weight": 0.5}],
    "train": {"steps": 10, "tokens_per_step": 128},
}


@pytest.fixture
def values() -> dict[str, Any]:
    """A recipe as YAML gives it."""
    return copy.deepcopy(VALUES)
