"""nexus prune, as a user starts it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))


def test_a_model_becomes_a_smaller_ordinary_one(tmp_path: Path) -> None:
    SMALL["write_workspace"](tmp_path)
    out = tmp_path / "small"
    command = [sys.executable, "-m", "nexus", "prune", str(tmp_path / "teacher"), "--out", str(out)]
    command += ["--shape", "neurons=32", "layers=3", "--text", str(tmp_path / "train.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    student = AutoModelForCausalLM.from_pretrained(out)
    assert (student.config.intermediate_size, student.config.num_hidden_layers) == (32, 3)
    count = sum(parameter.numel() for parameter in student.parameters())
    assert f"{count:,} of " in done.stdout
    assert len(AutoTokenizer.from_pretrained(out)) == 259
    facts = json.loads((out / "pruning.json").read_text())
    assert facts["parameters"]["after"] == count
    assert {proof["outcome"] for proof in facts["proofs"]} == {"proved"}
    assert "saved and loaded it gives the same logits" in {p["name"] for p in facts["proofs"]}
