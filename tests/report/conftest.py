"""A run directory with every part in it."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus.proofs import Check, Proof
from nexus.results import Evaluation

MATERIAL = runpy.run_path(str(Path(__file__).parent / "material.py"))

STEPS = 120


@pytest.fixture
def evaluation() -> Evaluation:
    """Made by hand, with every part filled in: no model was measured."""
    build: Evaluation = MATERIAL["evaluation"]()
    return build


@pytest.fixture
def run(tmp_path: Path, evaluation: Evaluation) -> Path:
    path = tmp_path / "half"
    path.mkdir()
    recipe: dict[str, Any] = {
        "output": "runs/half",
        "seed": 0,
        "teacher": {"kind": "local", "model": "models/SmolLM2-135M-Instruct"},
        "student": {"kind": "layers", "count": 15, "pick": "block_influence"},
        "objectives": [{"kind": "output", "weight": 1.0, "divergence": "forward_kl"}],
        "train": {"steps": STEPS, "tokens_per_step": 2048, "learning_rate": 5e-4},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    write_steps(path, [a_step(step) for step in range(1, STEPS + 1)])
    environment = {
        "versions": {"nexus": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "hardware": {"processor": "AMD EPYC", "cores": 2, "memory_gib": 15.6, "cuda": None},
        "fingerprints": {"teacher": "sha256:" + "5f3a" * 16, "tokenizer": "sha256:" + "0b1c" * 16},
        "data": {
            "train: data/train.jsonl": a_source(4820, 1_204_233, truncated=12),
            "heldout: data/heldout.jsonl": a_source(212, 30_724),
            "total": {"training rows": 2401, "held-out documents also trained on": 0},
        },
        "notices": ["Rows of padding beyond the vocabulary have probability zero on both sides."],
    }
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    evaluation.save(path)
    check().save(path)
    return path


def check() -> Check:
    def proof(group: str, name: str, outcome: Any = "proved", **more: Any) -> Proof:
        return Proof(group=group, name=name, outcome=outcome, **more)

    return Check(
        proofs=(
            proof("fit", "training fits into memory", value=2.4, limit=15.6),
            proof("teacher", "the teacher is better than the untrained student"),
            proof(
                "data", "few answers are cut", "doubtful", detail="12 of 4,820 rows",
                remedy="raise data.sequence_length",
            ),
            proof("loss", "padding changes neither loss nor gradient", value=2e-7, limit=1e-5),
            proof("loss", "the step is the same on two processes", "skipped", detail="one process"),
        ),
        seconds=41.0,
        complete=True,
    )  # fmt: skip


def a_source(rows: int, tokens: int, **more: Any) -> dict[str, Any]:
    counts = {"rows": rows, "examples": rows, "tokens": tokens, "target_tokens": tokens - rows}
    nothing = {"skipped": 0, "truncated": 0, "split": 0, "dropped": 0, "escaped": 0}
    return counts | nothing | {"skipped_rows": [], "streamed": False} | more


def a_step(step: int) -> dict[str, Any]:
    noise = 0.08 * math.sin(12.9898 * step) * math.cos(78.233 * step)
    kl = 0.66 + 4.9 * math.exp(-step / 15) + noise
    return {
        "step": step,
        "stage": "main",
        "targets": 2048,
        "loss": 0.5 * kl + 0.5 * (kl + 2.7),
        "terms": {"output": kl, "task": kl + 2.7},
        "kl": kl,
        "agreement": 0.63 - 0.5 * math.exp(-step / 15) + noise / 10,
        "learning_rate": 5e-4 * min(1.0, step / 20) * (1 + math.cos(math.pi * step / STEPS)) / 2,
        "gradient_norm": 1.2 + 3 * math.exp(-step / 10) + noise,
        "tokens_per_second": 900 + 400 * noise,
        "peak_memory_gib": 2.3,
        "seconds": 2.2,
    } | (
        {"heldout_kl": kl + 0.05, "heldout_agreement": 0.6, "heldout_nll": kl + 2.6}
        if step % 40 == 0
        else {}
    )


def write_steps(run: Path, steps: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
