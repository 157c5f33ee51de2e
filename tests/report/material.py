"""An evaluation with every part filled in, made by hand: no model was measured.

Loaded with `runpy.run_path`, since tests are no package.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nexus.evaluation.answers import Answers
from nexus.evaluation.scoreboard import task_result
from nexus.results import (
    Bin,
    Calibration,
    Estimate,
    Evaluation,
    Heldout,
    Quality,
    Rates,
    Refused,
    Rollouts,
    Sample,
    Size,
    Speed,
    SpeedAt,
    TaskResult,
)


def evaluation() -> Evaluation:
    return Evaluation(
        heldout=heldout(),
        rollouts=rollouts(),
        tasks={
            "arithmetic": task(300, 0.25, {"teacher": 0.82, "untrained": 0.27, "trained": 0.71}),
            "questions": task(
                200, 0.0, {"teacher": 0.55, "untrained": 0.01, "trained": 0.38},
                kind="generation", metric="exact_match", trained_on=True,
            ),
            "riddles": task(120, 0.5, {"teacher": 0.42, "untrained": 0.42, "trained": 0.41}),
        },
        speed=speed(),
        size={"teacher": size(134_515_008, 106_203_456), "student": size(81_413_568, 53_102_016)},
        samples=(
            Sample(
                prompt="The capital of France is",
                teacher=" Paris. It is the largest city in France and the seat of its government.",
                student=" Paris, which is the largest city of the country.\nIt lies on the Seine.",
            ),
        ),
    )  # fmt: skip


def nats(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=212, unit="nats")


def share(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=212, unit="share")


def times(value: float) -> Estimate:
    return Estimate(value=value, low=value * 0.97, high=value * 1.02, n=7, unit="×")


def quality(nll: float, bits: float, ece: float = 0.012, **fidelity: Estimate) -> Quality:
    perplexity = Estimate(
        value=math.exp(nll), low=math.exp(nll - 0.05), high=math.exp(nll + 0.05), n=212
    )
    per_byte = Estimate(value=bits, low=bits - 0.02, high=bits + 0.02, n=212, unit="bits/byte")
    return Quality(
        nll=nats(nll, nll - 0.05, nll + 0.05),
        perplexity=perplexity,
        bits_per_byte=per_byte,
        entropy=nats(nll - 0.3, nll - 0.35, nll - 0.25),
        calibration=calibration(ece),
        **fidelity,
    )


def calibration(ece: float) -> Calibration:
    """Over-confident by `ece` in every bin."""
    bins = [
        Bin(confidence=at / 10 + 0.05, accuracy=max(0.0, at / 10 + 0.05 - ece), share=0.1)
        for at in range(10)
    ]
    return Calibration(
        ece=share(ece, max(0.0, ece - 0.003), ece + 0.004),
        uncorrected=ece + 0.002,
        bias=0.002,
        bins=tuple(bins),
    )


def heldout() -> Heldout:
    return Heldout(
        documents=212,
        tokens=30_512,
        bytes=121_004,
        teacher=quality(2.833, 1.03),
        untrained=quality(
            8.12,
            2.95,
            forward_kl=nats(5.61, 5.5, 5.72),
            reverse_kl=nats(4.9, 4.8, 5.0),
            agreement=share(0.121, 0.115, 0.127),
            acceptance=share(0.08, 0.07, 0.09),
        ),
        trained=quality(
            3.281,
            1.19,
            0.015,
            forward_kl=nats(0.668, 0.651, 0.686),
            reverse_kl=nats(0.62, 0.6, 0.641),
            agreement=share(0.628, 0.619, 0.637),
            acceptance=share(0.571, 0.562, 0.581),
        ),
        gap_closed={
            "forward_kl": share(0.881, 0.876, 0.886),
            "reverse_kl": share(0.873, 0.868, 0.879),
            "nll": Refused(reason="the untrained student was as good as the teacher"),
        },
        perplexity_ratio={"untrained": times(198.0), "trained": times(1.565)},
        change={"forward_kl": nats(-4.94, -5.05, -4.83)},
    )


def rollouts() -> Rollouts:
    return Rollouts(
        documents=64,
        tokens=4_096,
        trained=quality(
            1.9, 0.8, forward_kl=nats(0.75, 0.7, 0.8), agreement=share(0.6, 0.58, 0.62)
        ),
        exposure_gap={
            "forward_kl": nats(0.082, 0.03, 0.13),
            "agreement": share(-0.03, -0.05, -0.01),
        },
    )


def task(
    items: int,
    chance: float,
    scores: dict[str, float],
    *,
    kind: str = "choice",
    metric: str = "accuracy",
    trained_on: bool = False,
) -> TaskResult:
    """Answers that are right in about the given shares, at fixed places."""
    random = np.random.default_rng(items)
    hard = random.random(items)
    answers: dict[str, Answers] = {}
    for model, right in scores.items():
        hit = (hard + 0.2 * random.standard_normal(items) < right).astype(float)
        values: dict[str, Any] = {metric: hit, "length_normalised": hit}
        answered = np.arange(items) >= (3 if kind == "generation" else 0)
        keys = tuple(str(item) for item in range(items))
        answers[model] = Answers(keys=keys, scores=values, answered=answered)
    return task_result(
        kind=kind, metric=metric, chance=chance, fingerprint="0f" * 32, trained_on=trained_on,
        answers=answers, seconds=4.2,
    )  # fmt: skip


def speed() -> Speed:
    return Speed(
        teacher=rates(412.0, 21.3),
        student=rates(795.0, 39.9),
        speedup={"prefill": times(1.93), "decode": times(1.87)},
        device="cpu",
        threads=2,
        prompt_tokens=128,
        new_tokens=32,
        seconds=19.2,
        peak_memory_gib=2.31,
        memory_gib={"teacher": 0.62, "student": 0.38},
        batches=(
            SpeedAt(
                batch=8,
                teacher=rates(500.0, 101.0),
                student=rates(940.0, 180.0),
                speedup={"prefill": times(1.88), "decode": times(1.78)},
                prompt_tokens=128,
                new_tokens=32,
            ),
        ),
    )


def rates(prefill: float, decode: float) -> Rates:
    def per_second(value: float) -> Estimate:
        return Estimate(value=value, low=value * 0.95, high=value * 1.03, n=7, unit="tokens/s")

    wait = 128 / prefill
    return Rates(
        prefill=per_second(prefill),
        decode=per_second(decode),
        first_token=Estimate(value=wait, low=wait * 0.97, high=wait * 1.05, n=7, unit="s"),
        dtype="float32",
    )


def size(parameters: int, without_embeddings: int) -> Size:
    return Size(
        parameters=parameters,
        parameters_without_embeddings=without_embeddings,
        bytes_on_disk=4 * parameters,
        flops_per_token=2.0 * without_embeddings,
        dtype="float32",
    )
