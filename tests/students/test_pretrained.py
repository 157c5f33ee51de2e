"""A student from a checkpoint has the checkpoint's weights, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nexus.errors import UsageError
from nexus.students.pretrained import Pretrained


def test_the_weights_are_the_checkpoints(tmp_path: Path) -> None:
    saved = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1))
    saved.to(torch.bfloat16).save_pretrained(tmp_path / "student")
    spec = Pretrained.parse({"kind": "pretrained", "model": "student"})
    student = spec.build(None, [], tmp_path, seed=0)
    assert student.dtype == torch.float32
    for name, value in student.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name].float())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_another_precision_is_not_the_students_to_choose() -> None:
    with pytest.raises(UsageError, match="'dtype' is 'bfloat16', but .*train.precision"):
        Pretrained.parse({"kind": "pretrained", "model": "student", "dtype": "bfloat16"})
