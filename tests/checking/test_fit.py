"""What a forecast means for the memory there is."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from nexus.checking.fit import few_bits_bytes, judged
from nexus.planning.memory import Forecast
from nexus.recipe.schema import Recipe

RECIPE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))["SKELETON"]


@pytest.mark.parametrize(
    ("room", "outcome"), [(134, "proved"), (101, "doubtful"), (90, "doubtful"), (70, "failed")]
)
def test_a_forecast_may_be_a_quarter_too_high_and_a_third_too_low(room: int, outcome: str) -> None:
    gib = 2**30
    proof = judged(Forecast({"student": 100 * gib}), 0, 0, 0, room * gib, "Take a smaller one")
    assert proof.outcome == outcome and bool(proof.remedy) == (outcome != "proved")


def test_what_few_bits_take_on_the_disk_is_foreseen() -> None:
    """Against the files of a layout that is counted by hand."""
    config = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    student = LlamaForCausalLM(config)
    inside, outside = 4 * 64 * 64 + 3 * 64 * 128, 100 * 64 + 3 * 64

    def taken(**quantize: Any) -> int:
        values = {**RECIPE, **({"quantize": {"scheme": "int8", **quantize}} if quantize else {})}
        return few_bits_bytes(Recipe.parse(values, "recipe"), student)

    assert taken() == 0
    rounded = int(inside * (8 + 16 / 32) / 8) + 2 * outside
    assert taken(group_size=32) == rounded
    train = {"steps": 4, "tokens_per_step": 64, "save_every": 4, "keep_checkpoints": 1}
    scales = 12 * inside // 32
    for parameters, each in (("scales", inside), ("weights", 12 * inside)):
        found = taken(group_size=32, distill={"parameters": parameters, "train": train})
        assert found == 2 * rounded + 2 * (4 * outside + scales + each)
