"""What does cutting a model cost: memory beside the model's own, and time beside a forward pass?

    python benchmarks/prune_cost.py MODEL TEXT [--target 0.75] [--rounds 3]

MODEL is a folder with a model and its tokenizer, TEXT a JSONL file with a `text` a line. Each
figure of memory is that of a process of its own, less what it held before the model was there, when
it had cut a tiny one, so that libraries are no part of it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import described as machine_described
from machine import facts as machine_facts
from material import write_teacher
from resident import forget_peak, peak_mib, settle
from results import RESULTS, goal, goals_table, publish, spread, table
from subject import subject
from tyro.conf import Positional

from nexus.hub import ModelSource, load_model, load_tokenizer
from nexus.kernels.decoder import evaluated
from nexus.pruned import SEQUENCE, Cut, prune_checkpoint
from nexus.pruning.activations import reader
from nexus.pruning.importance import measure
from pruning import ROWS_A_BATCH, rows_of

MOST_MEMORY, MOST_TIME = 2.2, 1.3

TINY = 0.787
"""Of the tiny model's parameters: what its few shapes allow."""

MIB = 2**20


def warmed_up(text: Path) -> float:
    """MiB that this process holds with all libraries that cutting takes, and a new peak begun."""
    with tempfile.TemporaryDirectory() as place:
        tiny = Path(place) / "tiny"
        write_teacher(None, tiny, tiny=True)
        asked = Cut(model=str(tiny), out=Path(place) / "small", target=TINY, text=(str(text),))
        prune_checkpoint(asked, lambda said: None)
    before = settle()
    forget_peak()
    return before


def forward_mib(model: Path, text: Path, dtype: str) -> tuple[float, float]:
    """MiB: of the model's parameters, and of what a batch of activations takes beside them."""
    before = warmed_up(text)
    source = ModelSource(model=str(model))
    whole = load_model(source, Path(), dtype)  # type: ignore[arg-type]
    own = sum(each.numel() * each.element_size() for each in whole.parameters()) / MIB
    (batch,) = rows_of(text, load_tokenizer(source, Path()), ROWS_A_BATCH, SEQUENCE)
    with torch.no_grad(), evaluated(whole):
        reader(whole)(batch)
    return own, max(0.0, peak_mib() - before - own)


def prune_mib(model: Path, text: Path, dtype: str, target: float, repair: bool) -> float:
    """MiB that `nexus prune` takes at most."""
    before = warmed_up(text)
    with tempfile.TemporaryDirectory() as place:
        asked = Cut(
            model=str(model), out=Path(place) / "small", target=target, text=(str(text),),
            repair=repair, dtype=dtype,  # type: ignore[arg-type]
        )  # fmt: skip
        prune_checkpoint(asked, lambda said: None)
    return peak_mib() - before


def passes(model: Path, text: Path, dtype: str, rows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a plain forward pass over some rows, and of one that measures importance."""
    source = ModelSource(model=str(model))
    whole = load_model(source, Path(), dtype).eval()  # type: ignore[arg-type]
    batches = rows_of(text, load_tokenizer(source, Path()), rows, SEQUENCE)

    def plain() -> None:
        read = reader(whole)
        with torch.no_grad(), evaluated(whole):
            for batch in batches:
                read(batch)

    ways: dict[str, Callable[[], object]] = {
        "plain": plain, "importance": lambda: measure(whole, batches)
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in list(ways.items())[:: 1 if number % 2 == 0 else -1]:
            begin = time.perf_counter()
            way()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main(
    model: Positional[Path],
    text: Positional[Path],
    target: float = 0.75,
    rows: int = 16,
    rounds: int = 3,
    dtype: str = "float32",
    output: Path | None = RESULTS / "prune_cost",
) -> None:
    """Measure both and write the table.

    Args:
        model: a folder with a model.
        text: JSONL.
        target: the share of the parameters that is left.
        rows: of 512 tokens, over which importance is timed.
        rounds: how often each is timed.
        dtype: of the weights.
        output: where the table goes, without a suffix.
    """
    machine = machine_facts()
    model, text = model.resolve(), text.resolve()
    own, batch = _apart(forward_mib, model, text, dtype)
    peaks = {
        name: _apart(prune_mib, model, text, dtype, target, repair)
        for name, repair in (("cut", False), ("cut and refitted", True))
    }
    seconds = passes(model, text, dtype, rows, rounds)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    goals = [
        goal(f"{name}: peak less a batch, over the model", (peak - batch) / own, most=MOST_MEMORY)
        for name, peak in peaks.items()
    ]
    goals.append(
        goal("importance over a plain pass", middle["importance"] / middle["plain"], most=MOST_TIME)
    )
    facts = {
        "machine": machine, "model": subject(model), "dtype": dtype, "model_mib": own,
        "batch_mib": batch, "peak_mib": peaks, "seconds": seconds, "goals": goals,
    }  # fmt: skip
    lines = [["the model's parameters", f"{own:,.0f}", "–"], ["a batch", f"{batch:,.0f}", "–"]]
    lines += [[name, f"{peak:,.0f}", f"{peak / own:.2f}"] for name, peak in peaks.items()]
    text_of = "\n".join(
        [
            "# What cutting costs", "", machine_described(machine), "",
            f"{subject(model)} in {dtype}, cut to {target:.0%}. Seconds over {rows * SEQUENCE:,} "
            f"tokens: plain {spread(seconds['plain'], 1)}, importance "
            f"{spread(seconds['importance'], 1)} (median [smallest–largest] of {rounds}).", "",
            table(["memory", "MiB at most", "over the model"], lines), "", goals_table(goals),
        ]
    )  # fmt: skip
    if not all(math.isfinite(each["value"]) for each in goals):
        raise ValueError("nothing was measured")
    publish(text_of, facts, output)


def _apart(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, given)


if __name__ == "__main__":
    tyro.cli(main)
