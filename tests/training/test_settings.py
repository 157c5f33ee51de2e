"""What a stage can be told about training, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nexus.errors import UsageError
from nexus.training.settings import LoraSpec, TrainSpec


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "'steps' is missing"),
        ({"steps": 0}, "'steps' is 0.*greater than or equal to 1"),
        ({"steps": 1, "learning_rate": 0}, "'learning_rate' is 0.*greater than 0"),
        ({"steps": 1, "learning_rate": float("nan")}, "'learning_rate' is nan"),
        ({"steps": 1, "learning_rat": 1e-3}, "'learning_rat'.*did you mean 'learning_rate'"),
        ({"steps": 1, "schedule": "cosin"}, "'schedule' is 'cosin'.*did you mean 'cosine'"),
        ({"steps": 1, "precision": "fp16"}, "'precision' is 'fp16'.*'pure_bf16'"),
        ({"steps": 1, "betas": [0.9, 1.0]}, r"'betas\[1\]' is 1.0.*less than 1"),
        ({"steps": 1, "betas": [0.9]}, r"'betas\[1\]' is missing"),
        ({"steps": 1, "final_share": 1.5}, "'final_share' is 1.5.*less than or equal to 1"),
        ({"steps": 1, "clip_gradient": 0}, "'clip_gradient' is 0"),
        ({"steps": 1, "micro_batch_rows": 0}, "'micro_batch_rows' is 0"),
        ({"steps": 1, "keep_checkpoints": 0}, "'keep_checkpoints' is 0"),
        ({"steps": 1, "dashboard": "trackia"}, "'dashboard' is 'trackia'.*did you mean 'trackio'"),
        ({"steps": 1, "lora": {"rank": 0}}, r"'lora.rank' is 0"),
        ({"steps": 1, "lora": {"dropout": 1.0}}, r"'lora.dropout' is 1.0"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainSpec.parse(values)


def test_half_precision_is_autocast_unless_the_weights_are_in_it() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with TrainSpec.parse({"steps": 1, "precision": precision}).autocast(torch.device("cpu")):
            assert (a @ a).dtype == dtype
    with TrainSpec(steps=1, precision="pure_bf16").autocast(torch.device("cpu")):
        assert (a @ a).dtype == torch.float32 and (
            a.bfloat16() @ a.bfloat16()
        ).dtype == torch.bfloat16


def test_every_layer_gets_an_adapter_unless_some_are_named() -> None:
    assert LoraSpec().targets == "all-linear"
    assert LoraSpec.parse({"targets": ["q_proj", "v_proj"]}).targets == ("q_proj", "v_proj")
