"""A run directory with every part in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus.results import (
    Estimate,
    Evaluation,
    Heldout,
    Quality,
    Rates,
    Refused,
    Sample,
    Size,
    Speed,
)

STEPS = 120


@pytest.fixture
def evaluation() -> Evaluation:
    def nats(value: float, low: float, high: float) -> Estimate:
        return Estimate(value=value, low=low, high=high, n=212, unit="nats")

    def scores(nll: float, bits: float, **fidelity: Estimate) -> Quality:
        perplexity = Estimate(
            value=math.exp(nll), low=math.exp(nll - 0.05), high=math.exp(nll + 0.05), n=212
        )
        per_byte = Estimate(value=bits, low=bits - 0.02, high=bits + 0.02, n=212, unit="bits/byte")
        loss = nats(nll, nll - 0.05, nll + 0.05)
        return Quality(nll=loss, perplexity=perplexity, bits_per_byte=per_byte, **fidelity)

    def share(value: float, low: float, high: float) -> Estimate:
        return Estimate(value=value, low=low, high=high, n=212, unit="share")

    def times(value: float) -> Estimate:
        return Estimate(value=value, low=value * 0.97, high=value * 1.02, n=7, unit="×")

    def rates(prefill: float, decode: float) -> Rates:
        return Rates(
            prefill=Estimate(
                value=prefill, low=prefill * 0.95, high=prefill * 1.02, n=7, unit="tokens/s"
            ),
            decode=Estimate(
                value=decode, low=decode * 0.96, high=decode * 1.03, n=7, unit="tokens/s"
            ),
            dtype="float32",
        )

    return Evaluation(
        heldout=Heldout(
            documents=212,
            tokens=30_512,
            bytes=121_004,
            teacher=scores(2.833, 1.03),
            untrained=scores(
                8.12,
                2.95,
                forward_kl=nats(5.61, 5.5, 5.72),
                reverse_kl=nats(4.9, 4.8, 5.0),
                agreement=share(0.121, 0.115, 0.127),
            ),
            trained=scores(
                3.281,
                1.19,
                forward_kl=nats(0.668, 0.651, 0.686),
                reverse_kl=nats(0.62, 0.6, 0.641),
                agreement=share(0.628, 0.619, 0.637),
            ),
            gap_closed={
                "forward_kl": share(0.881, 0.876, 0.886),
                "reverse_kl": share(0.873, 0.868, 0.879),
                "nll": Refused(reason="the untrained student was as good as the teacher"),
            },
            perplexity_ratio={"untrained": times(198.0), "trained": times(1.565)},
            change={"forward_kl": nats(-4.94, -5.05, -4.83)},
        ),
        speed=Speed(
            teacher=rates(412.0, 21.3),
            student=rates(795.0, 39.9),
            speedup={"prefill": times(1.93), "decode": times(1.87)},
            device="cpu",
            threads=2,
            prompt_tokens=128,
            new_tokens=32,
            seconds=19.2,
            peak_memory_gib=2.31,
        ),
        size={
            "teacher": Size(
                parameters=134_515_008,
                parameters_without_embeddings=106_203_456,
                bytes_on_disk=538_090_408,
                dtype="float32",
            ),
            "student": Size(
                parameters=81_413_568,
                parameters_without_embeddings=53_102_016,
                bytes_on_disk=325_679_560,
                dtype="float32",
            ),
        },
        samples=(
            Sample(
                prompt="The capital of France is",
                teacher=" Paris. It is the largest city in France and the seat of its government.",
                student=" Paris, which is the largest city of the country.\nIt lies on the Seine.",
            ),
        ),
    )


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
    return path


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
    }


def write_steps(run: Path, steps: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
