"""What does it cost that a checkpoint is never half written, and checked before it is relied on?

    python benchmarks/checkpoint.py

A student of SmolLM2's shape with 15 layers and its AdamW moments, in fp32, is saved as training
saves it: written aside, flushed, hashed, renamed, read again and compared, an older one deleted.
Beside it, in turns, the same number of bytes is written from memory into one file and flushed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import described
from machine import facts as machine_facts
from results import RESULTS, goal, goals_table, publish, spread, table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from nexus.errors import UsageError
from nexus.training.checkpoint import Checkpoints
from nexus.training.optimizer import adamw
from nexus.training.snapshot import Snapshot
from nexus.training.whole import WholeTensors

ROUNDS = 7


def main(
    rounds: int = ROUNDS,
    folder: Path | None = None,
    tiny: bool = False,
    output: Path | None = None,
) -> None:
    """Measure, print a Markdown table, and write it with all numbers to benchmarks/results.

    Args:
        rounds: How many checkpoints are timed, after one that is not.
        folder: Where to write; a temporary directory if absent. Needs room for four checkpoints.
        tiny: A model of no consequence, to see that everything runs. Written only to `output`.
        output: Where to write the results instead, without suffix.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}: at least one must be timed")
    machine = machine_facts()
    model = make_student(tiny)
    snapshot = Snapshot("benchmark", WholeTensors(model, optimizer_of(model)))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        seconds, size = take_turns(Path(scratch), snapshot, rounds)
    facts = {
        "machine": machine, "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": size, "rounds": rounds, "seconds": seconds,
        "ratio": statistics.median(seconds["checkpoint"]) / statistics.median(seconds["plain"]),
        "ratios": [a / b for a, b in zip(seconds["checkpoint"], seconds["plain"], strict=True)],
    }  # fmt: skip
    goals = [] if tiny else [goal("times as long as plain bytes", facts["ratio"], most=1.5)]
    facts["goals"] = goals
    publish(tables(facts), facts, output or (None if tiny else RESULTS / "checkpoint"))


def make_student(tiny: bool) -> nn.Module:
    """SmolLM2-135M's shape with half its layers: 81 million weights, tied ones once."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64 if tiny else 49152,
        hidden_size=36 if tiny else 576,
        intermediate_size=96 if tiny else 1536,
        num_hidden_layers=15,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    """One that has made a step, so that it has moments."""
    optimizer = adamw(model, 1e-4, (0.9, 0.95), 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def take_turns(
    scratch: Path, snapshot: Snapshot, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of each round for both, which follow each other, and the bytes of a checkpoint."""
    checkpoints = Checkpoints(scratch / "checkpoints", keep=2)
    checkpoints.open()
    seconds: dict[str, list[float]] = {"plain": [], "checkpoint": []}
    size = 0
    for number in range(-1, rounds):
        snapshot.step = number + 2
        begun = time.perf_counter()
        saved = checkpoints.save(snapshot)
        took = time.perf_counter() - begun
        size = sum(file.stat().st_size for file in saved.iterdir())
        plain = write_plainly(scratch / "plain", size)
        if number >= 0:  # what is written first finds colder caches
            seconds["checkpoint"].append(took)
            seconds["plain"].append(plain)
    shutil.rmtree(checkpoints.folder)
    return seconds, size


def write_plainly(file: Path, size: int) -> float:
    """Seconds to write so many bytes from memory and to flush them."""
    content = torch.randint(256, (size,), dtype=torch.uint8).numpy()
    begun = time.perf_counter()
    with file.open("wb", buffering=0) as stream:
        left = memoryview(content)
        while left:
            left = left[stream.write(left) :]
        os.fsync(stream.fileno())
    took = time.perf_counter() - begun
    file.unlink()
    return took


def tables(facts: dict[str, Any]) -> str:
    """The table in Markdown."""
    size, seconds = facts["bytes"], facts["seconds"]
    rows = [
        [
            name,
            spread(seconds[key], digits=2),
            f"{size / statistics.median(seconds[key]) / 1e6:,.0f}",
        ]
        for name, key in (("write and fsync", "plain"), ("**checkpoint**", "checkpoint"))
    ]
    parts = [
        described(facts["machine"]),
        f"### {facts['parameters'] / 1e6:,.1f} million weights and their moments: "
        f"{size / 1e6:,.0f} MB",
        table(["", "seconds, median [min–max]", "MB/s"], rows),
        f"A checkpoint takes {facts['ratio']:.2f} times as long, medians of {facts['rounds']} "
        f"rounds; within a round {spread(facts['ratios'], digits=2)} times.",
    ]
    return "\n\n".join([*parts, *([goals_table(facts["goals"])] if facts["goals"] else [])])


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UsageError as error:
        sys.exit(f"checkpoint.py: {error}")
