"""The benchmark of models in few bits: one command, measured beside the model itself."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import quantised

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))


def test_one_command_measures_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL["write_workspace"](tmp_path)
    output = tmp_path / "quantised"
    assert quantised.main(
        tmp_path / "teacher", tmp_path / "heldout.jsonl", fit_to=tmp_path / "train.jsonl",
        variants=("nexus4fitted", "onnx8"), tokens=512, group_size=32,
        prompt_tokens=16, new_tokens=2, rounds=1, output=output,
    )  # fmt: skip
    found = json.loads(output.with_suffix(".json").read_text())["variants"]
    assert found["fp32"]["kl"] == 0 and found["fp32"]["agreement"] == 1
    assert found["fp32"]["bytes"] == 2 * found["bf16"]["bytes"]
    assert 0 < found["bf16"]["kl"] < 0.01
    assert 0 < found["onnx8"]["kl"] < 0.01 and found["onnx8"]["bytes"] < found["fp32"]["bytes"] / 2
    assert "| PyTorch, bfloat16 |" in capsys.readouterr().out
