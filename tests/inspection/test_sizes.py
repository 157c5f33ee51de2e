"""Sizes are compared with limits, with the weights beside them, and with this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.inspection.sizes import LIMITS, check_sizes
from nexus.inspection.tensors import Tensors

PATH = Path("model/config.json")
LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
}


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_is_one(name: str) -> None:
    check_sizes(PATH, {"x": {"y": 10**30}, name: 1}, Tensors(1000, 10**9))
    for value in (LIMITS[name] + 1, -1):
        for config in ({name: value}, {"text_config": {name: value}}, {f"llama.{name}": value}):
            with pytest.raises(UsageError, match=rf"config\.json is refused: {name} is "):
                check_sizes(PATH, config, None)


@pytest.mark.parametrize(
    ("config", "numbers", "tensors"),
    [
        (LLAMA_70B, 70_553_706_496, 723),
        (LLAMA_70B, 70_553_706_496 // 8, 723),
        ({"n_embd": 768, "n_layer": 12, "vocab_size": 50257}, 124_439_808, 148),
        ({"text_config": {"hidden_size": 2560, "vocab_size": 262144}}, 4_300_079_472, 883),
    ],
    ids=["a large model", "packed to four bits", "GPT-2", "with a vision part"],
)
def test_real_models_pass(
    config: dict[str, Any], numbers: int, tensors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.inspection.sizes.memory_bytes", lambda: 64 * 2**30)
    check_sizes(PATH, config, Tensors(tensors, numbers))
    check_sizes(PATH, config, None)


def test_a_model_from_scratch_is_compared_with_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nexus.inspection.sizes.memory_bytes", lambda: 2**30)
    with pytest.raises(UsageError, match="bytes in float32"):
        check_sizes(PATH, LLAMA_70B, None)


def test_what_is_no_number_is_left_to_the_library() -> None:
    check_sizes(PATH, {"hidden_size": "wide", "num_hidden_layers": True}, None)
