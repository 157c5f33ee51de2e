"""How fast is a whole step of distillation, beside a hand-written loop and another trainer?

    python benchmarks/step.py

The teacher is SmolLM2-135M-Instruct, the student 15 of its 30 layers. Each step takes 4 rows of
512 tokens of real text, of which the first 128 are a prompt without loss, through teacher and
student, forward and backward, and through AdamW: α · CE + (1 - α) · T² · KL at T = 2 and α = 0.5.
README.md says how to read the tables.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro
from loops import LEARNING_RATE, VARIANTS, Plan
from losses import ALPHA, TEMPERATURE
from machine import described, require
from machine import facts as machine_facts
from material import write_teacher
from resident import settle
from results import RESULTS, failure, goal, goals_table, publish, spread, table
from turns import Entry, Facts, Outcome, take_turns

from nexus.errors import UsageError
from nexus.launch import describe, memory_settings

WARMUPS, ROUNDS = 2, 6

HEATS = (("nexus", "plain", "plain_tuned", "trl"), ("nexus_bare", "nexus_eager", "trl_bf16"))
"""Who takes turns with whom: all at once would need more memory than most machines have."""


def main(
    variants: tuple[str, ...] = tuple(VARIANTS),
    rounds: int = ROUNDS,
    model: Path | None = None,
    tiny: bool = False,
    apart: bool = False,
    output: Path | None = None,
) -> bool:
    """Measure, print Markdown tables, and write them with all numbers to benchmarks/results.

    Args:
        variants: Which implementations. The plain loop always runs.
        rounds: How many steps of each are timed, after 2 that are not.
        model: A folder with another teacher than SmolLM2-135M-Instruct.
        tiny: A random model of no consequence, to see that everything runs. Written only to
            `output`.
        apart: One process after another instead of in turns: less memory, more noise.
        output: Where to write instead, without suffix.

    Returns:
        Whether every variant ran.
    """
    if unknown := set(variants) - VARIANTS.keys():
        raise UsageError(f"variant '{min(unknown)}' does not exist. Known: {', '.join(VARIANTS)}")
    chosen = [name for name in VARIANTS if name in {*variants, "plain"}]
    require(VARIANTS[name].package for name in chosen)
    machine = machine_facts()
    with tempfile.TemporaryDirectory() as folder:
        write_teacher(model, Path(folder), tiny)
        settle()  # every variant needs the memory that the teacher leaves behind here
        steps = WARMUPS + rounds
        plan = Plan(Path(folder), steps, length=32, prompt=8) if tiny else Plan(Path(folder), steps)
        outcomes = run(chosen, plan, rounds, not apart)
    rows = [compared(name, outcomes, plan) for name in chosen]
    facts = {
        "alpha": ALPHA, "temperature": TEMPERATURE, "learning_rate": LEARNING_RATE,
        "machine": machine, "memory_settings": memory_settings(),
        "model": "random" if tiny else str(model.name if model else "SmolLM2-135M-Instruct"),
        "plan": {name: value for name, value in asdict(plan).items() if name != "folder"},
        "variants": rows, "goals": [] if tiny else goals(rows),
    }  # fmt: skip
    publish(tables(facts), facts, output or (None if tiny else RESULTS / "step"))
    return not any(row["error"] for row in rows)


def run(chosen: list[str], plan: Plan, rounds: int, together: bool) -> dict[str, Outcome]:
    """One heat after another."""
    outcomes: dict[str, Outcome] = {}
    for heat in HEATS:
        entries = {name: _entry(name, plan) for name in heat if name in chosen}
        outcomes |= take_turns(entries, warmups=WARMUPS, rounds=rounds, together=together)
    if outcomes["plain"].error:
        raise RuntimeError(outcomes["plain"].error)
    return outcomes


def _entry(name: str, plan: Plan) -> Entry:
    variant = VARIANTS[name]
    environment = memory_settings() if variant.memory_settings else {}
    return Entry(variant.play, (plan, *variant.options), environment)


def compared(name: str, outcomes: dict[str, Outcome], plan: Plan) -> Facts:
    """What there is to say of a variant beside the others."""
    outcome, trl = outcomes[name], outcomes.get("trl")
    if outcome.error:
        return {"name": name, "error": outcome.error}
    return {
        "name": name,
        "error": "",
        "seconds": outcome.seconds,
        "processors": outcome.processors,
        "warmup_seconds": [turn["seconds"] for turn in outcome.warmups],
        "tokens_per_second": [plan.rows * plan.length / each for each in outcome.seconds],
        "times_as_fast_as_plain": outcomes["plain"].median / outcome.median,
        "times_as_fast_as_trl": trl.median / outcome.median if trl and not trl.error else None,
        **outcome.final,
    }


def goals(rows: Sequence[Facts]) -> list[dict[str, Any]]:
    """What is promised of our step, and whether it held."""
    own = next((row for row in rows if row["name"] == "nexus" and not row["error"]), None)
    if own is None:
        return []
    found = [goal("times as fast as the plain loop", own["times_as_fast_as_plain"], least=2.3)]
    if own["times_as_fast_as_trl"] is not None:
        found.append(goal("times as fast as TRL", own["times_as_fast_as_trl"], least=2.5))
    return found


def tables(facts: Facts) -> str:
    """The tables in Markdown."""
    plan, rows = facts["plan"], facts["variants"]
    header = [
        "", "tokens/s, median [min–max]", "seconds a step", "× plain", "× TRL",
        "memory over models, MiB", "first loss", "last loss",
    ]  # fmt: skip
    counted = plan["rows"] * (plan["length"] - plan["prompt"])
    processors = statistics.median(row["processors"] for row in rows if not row["error"])
    parts = [
        described(facts["machine"]),
        f"### {facts['model']} to half its layers, {plan['rows']} × {plan['length']} tokens",
        table(header, [_cells(row) for row in rows]),
        f"{counted:,} tokens a step have a loss. Memory settings: "
        f"{describe(facts['memory_settings']) or 'none here'}. In the median, a variant had "
        f"{processors:.2f} processors to itself.",
    ]
    return "\n\n".join([*parts, *([goals_table(facts["goals"])] if facts["goals"] else [])])


def _cells(row: Facts) -> list[str]:
    title = VARIANTS[row["name"]].title
    if row["error"]:
        return failure(title, row["error"], columns=8)
    trl, losses = row["times_as_fast_as_trl"], row.get("losses")
    return [
        title,
        spread(row["tokens_per_second"], digits=0),
        f"{statistics.median(row['seconds']):.2f}",
        f"{row['times_as_fast_as_plain']:.2f}",
        "–" if trl is None else f"{trl:.2f}",
        f"{row['memory_mib']:,.0f}",
        f"{losses[0]:.4f}" if losses else "–",
        f"{losses[-1]:.4f}" if losses else "–",
    ]


if __name__ == "__main__":
    try:
        sys.exit(not tyro.cli(main))
    except UsageError as error:
        sys.exit(f"step.py: {error}")
