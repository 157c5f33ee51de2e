"""Cloze: the target counts if the model would write it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from nexus.evaluation.tasks.cloze import Cloze
from nexus.evaluation.tasks.running import facts, run


def test_a_target_that_the_model_writes_is_right_and_its_perplexity_is_the_models(
    model: Any, tokenizer: Any, write_items: Any, tmp_path: Path
) -> None:
    with torch.no_grad():  # a model that says `x` with four nats more than all else, whatever came
        model.get_decoder().norm.weight.zero_()
        head = torch.nn.Linear(32, 259)
        head.weight.zero_()
        head.bias.zero_()[ord("x") - 33] = 4.0
        model.lm_head = head
    assert tokenizer.encode("x") == [ord("x") - 33]
    rows = [
        {"id": "1", "context": "C", "target": "xx"},
        {"id": "2", "context": "C", "target": "xy"},
        {"id": "3", "context": "C", "target": "xxxxx"},
    ]
    task = Cloze(path=write_items(rows), delimiter="")
    found = run(task, model, tokenizer, folder=tmp_path)
    assert found.scores["accuracy"].tolist() == [1, 0, 1]
    normaliser = math.log(math.exp(4) + 258)
    right, wrong = 4 - normaliser, -normaliser
    expected = [2 * right, right + wrong, 5 * right]
    assert found.scores["log_probability"].tolist() == pytest.approx(expected, abs=1e-4)
    assert cast(Any, found.answered).all()


def test_guessing_scores_nothing(write_items: Any, tmp_path: Path) -> None:
    known = facts(Cloze(path=write_items([{"id": 1, "context": "C", "target": "t"}])), tmp_path)
    assert (known.kind, known.metric, known.chance) == ("cloze", "accuracy", 0.0)
