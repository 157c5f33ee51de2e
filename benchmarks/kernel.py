"""How fast and how large is the loss over the language-model head, beside others and the limit?

    python benchmarks/kernel.py

α · CE + (1 - α) · T² · KL at T = 2 and α = 0.5: the loss and the gradients of hidden states and
head weight, in bf16, over 2,048 tokens of which 30 % are ignored. The limit is the four matrix
products that nobody can avoid, over the rows that count. README.md says how to read the tables.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import tyro
from losses import ALPHA, TEMPERATURE, VARIANTS, plain_loss, products
from machine import described, require
from machine import facts as machine_facts
from problem import IGNORED_SHARE, SEED, Problem, Shape, compare, folder_in_memory, pose, solve
from resident import forget_peak, peak_mib, settle
from results import RESULTS, failure, goal, goals_table, publish, spread, table
from turns import Clock, Entry, Facts, Outcome, take_turns

from nexus.errors import UsageError

SHAPES = {
    "small": Shape(2048, 576, 576, 49_152),
    "large": Shape(2048, 1024, 2048, 151_936),
    "tiny": Shape(256, 64, 96, 1000),
}
ROUNDS = {"small": 7, "large": 3, "tiny": 2}

LAYOUTS = ("head gradient", "head gradient, transposed")
"""The two ways to lay out one of the products; the quicker one belongs to the limit."""


def main(
    shapes: tuple[Literal["small", "large", "tiny"], ...] = ("small", "large"),
    variants: tuple[str, ...] = tuple(VARIANTS),
    rounds: int | None = None,
    tiny: bool = False,
    apart: bool = False,
    output: Path | None = None,
) -> bool:
    """Measure, print Markdown tables, and write them with all numbers to benchmarks/results.

    Args:
        shapes: Which sizes.
        variants: Which implementations. Naive PyTorch and the limit always run.
        rounds: How often each is timed; 7 times at the small and 3 times at the large shape.
        tiny: A size of no consequence, to see that everything runs. Written only to `output`.
        apart: One process after another instead of in turns: less memory, more noise.
        output: Where to write instead, without suffix.

    Returns:
        Whether every variant ran.
    """
    if unknown := set(variants) - VARIANTS.keys():
        raise UsageError(f"variant '{min(unknown)}' does not exist. Known: {', '.join(VARIANTS)}")
    chosen = [name for name in VARIANTS if name in {*variants, "naive"}]
    require(VARIANTS[name].package for name in chosen)
    facts: Facts = {
        "alpha": ALPHA, "temperature": TEMPERATURE, "dtype": "bfloat16", "seed": SEED,
        "ignored_share": IGNORED_SHARE, "machine": machine_facts(), "shapes": {},
    }  # fmt: skip
    for name in ("tiny",) if tiny else shapes:
        facts["shapes"][name] = measure(SHAPES[name], chosen, rounds or ROUNDS[name], not apart)
    text = [described(facts["machine"]), *map(shape_described, facts["shapes"].values())]
    publish("\n\n".join(text), facts, output or (None if tiny else RESULTS / "kernel"))
    return all(not row["error"] for shape in facts["shapes"].values() for row in shape["variants"])


def measure(shape: Shape, chosen: list[str], rounds: int, together: bool) -> Facts:
    """All variants and the limit at one shape."""
    print(shape, file=sys.stderr)
    with folder_in_memory() as folder:
        reference = _alone(Entry(play_reference, (folder, shape)), "reference in fp32")
        entries = {"limit": Entry(play_limit, (folder, shape, rounds))}
        entries |= {name: Entry(play, (name, folder, shape, rounds)) for name in chosen}
        outcomes = take_turns(entries, warmups=1, rounds=rounds, together=together)
    limit, naive = outcomes.pop("limit"), outcomes["naive"]
    for outcome in (limit, naive):
        if outcome.error:
            raise RuntimeError(outcome.error)
    rows = [compared(name, outcome, naive, limit) for name, outcome in outcomes.items()]
    return {
        "shape": asdict(shape),
        **reference.final,
        "limit": {"seconds": limit.seconds, "processors": limit.processors, **limit.final},
        "variants": rows,
        "goals": goals(rows) if shape != SHAPES["tiny"] else [],
    }


def play_reference(clock: Clock, folder: Path, shape: Shape) -> Facts:
    """Pose the problem, and solve it in fp32."""
    clock.begin()
    pose(folder, shape)
    loss = solve(folder, shape, plain_loss)
    clock.end()
    return {"reference_loss": loss, "targets": Problem.attach(folder, shape).target_count}


def play(clock: Clock, name: str, folder: Path, shape: Shape, rounds: int) -> Facts:
    """One variant: its first call is checked, all others are timed."""
    problem = Problem.attach(folder, shape)
    step = VARIANTS[name].build(problem)
    clock.begin()
    loss = float(step())
    clock.end()
    facts: Facts = {"loss": loss, **compare(problem, folder)}
    problem.clear()
    before = settle()
    forget_peak()
    for _ in range(rounds):
        clock.begin()
        step()
        clock.end()
        problem.clear()
    # What stays between calls was there before the first of them: it is counted on top.
    peak, with_workspace = peak_mib(), settle()
    del step
    kept = max(0.0, with_workspace - settle())
    return {**facts, "memory_mib": max(0.0, peak - before) + kept, "kept_mib": kept}


def play_limit(clock: Clock, folder: Path, shape: Shape, rounds: int) -> Facts:
    """The four products one after another, each timed, of the two layouts the quicker one."""
    problem = Problem.attach(folder, shape)
    each = products(problem)
    clock.begin()
    first = {name: min(_timed(product) for _ in range(2)) for name, product in each.items()}
    clock.end()
    del each[max(LAYOUTS, key=first.__getitem__)]
    times: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(rounds):
        clock.begin()
        for name, product in each.items():
            times[name].append(_timed(product))
        clock.end()
    rates = {}
    for name, seconds in times.items():
        width = shape.teacher if name == "teacher logits" else shape.student
        operations = 2 * problem.target_count * width * shape.vocabulary
        rates[name] = operations / statistics.median(seconds) / 1e12
    return {"product_seconds": times, "product_tflops": rates}


def compared(name: str, outcome: Outcome, naive: Outcome, limit: Outcome) -> Facts:
    """What there is to say of a variant beside the others."""
    if outcome.error:
        return {"name": name, "error": outcome.error}
    final = outcome.final
    lengths = (final["hidden_length"], final["weight_length"])
    return {
        "name": name,
        "error": "",
        "seconds": outcome.seconds,
        "processors": outcome.processors,
        "first_call_seconds": outcome.warmups[0]["seconds"],
        "times_as_fast_as_naive": naive.median / outcome.median,
        "times_the_limit": outcome.median / limit.median,
        "memory_share_of_naive": final["memory_mib"] / max(naive.final["memory_mib"], 1.0),
        "gradient_error": max(final["hidden_error"], final["weight_error"]),
        "gradient_length": max(lengths, key=lambda length: abs(length - 1)),
        **final,
    }


def goals(rows: Sequence[Facts]) -> list[dict[str, Any]]:
    """What is promised of our kernel, and whether it held."""
    ran = {row["name"]: row for row in rows if not row["error"]}
    if "nexus" not in ran:
        return []
    own = ran["nexus"]
    found = [
        goal("times as fast as naive PyTorch", own["times_as_fast_as_naive"], least=5),
        goal("memory, share of naive PyTorch", own["memory_share_of_naive"], most=1 / 8),
        goal("gradient error", own["gradient_error"], most=0.004),
        goal("gradient length, off by", abs(own["gradient_length"] - 1), most=0.003),
    ]
    if "liger" in ran:
        ratio = statistics.median(ran["liger"]["seconds"]) / statistics.median(own["seconds"])
        found.insert(1, goal("times as fast as Liger, compiled", ratio, least=2))
    return found


def shape_described(measured: Facts) -> str:
    """The tables of one shape, in Markdown."""
    limit, rows = measured["limit"], measured["variants"]
    naive = next(row for row in rows if row["name"] == "naive")
    share = statistics.median(naive["seconds"]) / statistics.median(limit["seconds"])
    header = [
        "", "ms, median [min–max]", "× naive", "× limit", "memory MiB", "of it kept",
        "share of naive", "gradient error", "length", "loss",
    ]  # fmt: skip
    bound = [_milliseconds(limit["seconds"]), f"{share:.1f}", "1.00", *["–"] * 6]
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in limit["product_tflops"].items())
    return "\n\n".join(
        [
            f"### {Shape(**measured['shape'])}",
            table(header, [["limit: four products", *bound], *map(_cells, rows)]),
            f"{measured['targets']:,} rows count. Loss in fp32: {measured['reference_loss']:.5f}. "
            f"Rates of the products in TFLOP/s: {rates}. "
            f"The limit had {limit['processors']:.2f} processors to itself.",
            *([goals_table(measured["goals"])] if measured["goals"] else []),
        ]
    )


def _cells(row: Facts) -> list[str]:
    title = VARIANTS[row["name"]].title
    if row["error"]:
        return failure(title, row["error"], columns=10)
    return [
        title,
        _milliseconds(row["seconds"]),
        f"{row['times_as_fast_as_naive']:.2f}",
        f"{row['times_the_limit']:.2f}",
        f"{row['memory_mib']:,.0f}",
        f"{row['kept_mib']:,.0f}",
        f"1/{1 / max(row['memory_share_of_naive'], 1e-3):.1f}",
        f"{row['gradient_error']:.3%}",
        f"{row['gradient_length']:.4f}",
        f"{row['loss']:.5f}",
    ]


def _milliseconds(seconds: list[float]) -> str:
    return spread([1e3 * each for each in seconds], digits=0 if min(seconds) > 0.02 else 2)


def _timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _alone(entry: Entry, name: str) -> Outcome:
    outcome = take_turns({name: entry}, warmups=1, rounds=0)[name]
    if outcome.error:
        raise RuntimeError(outcome.error)
    return outcome


if __name__ == "__main__":
    try:
        sys.exit(not tyro.cli(main))
    except UsageError as error:
        sys.exit(f"kernel.py: {error}")
