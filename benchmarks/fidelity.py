"""What does comparing a student with its teacher cost beside the two forward passes it needs?

    python benchmarks/fidelity.py [--tokens 10000] [--rounds 5]

The teacher is SmolLM2-135M-Instruct, the student 15 of its 30 layers. The floor runs both over the
same rows and projects their hidden states to logits in the same chunks, and does nothing else.
Fidelity is all that a run's evaluation does with held-out text, intervals included.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from machine import described
from machine import facts as machine_facts
from material import half, load_text_tokenizer, token_rows, write_teacher
from resident import peak_mib, settle
from results import RESULTS, goal, goals_table, publish, spread, table
from torch import Tensor
from turns import Clock, Entry, Facts, Outcome, take_turns

from nexus.batch import IGNORED, Batch
from nexus.errors import UsageError
from nexus.evaluation.fidelity import WANTED, measure
from nexus.evaluation.mode import observing
from nexus.hub import ModelSource, load_model
from nexus.kernels.chunked_head import EAGER_CHUNK_BYTES, FEWEST_ROWS
from nexus.kernels.lm_head import Trunk, split_head
from nexus.signals import Headed
from nexus.teachers.local import LocalTeacher

WARMUPS = 1
ROWS, LENGTH = 4, 512
PART = 4
"""Memory is also taken at a fourth of the tokens."""
MOST, GROWTH_MIB = 1.3, 32.0

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""Of the teacher. The student's weights are fp32, in bf16 under autocast, as in training."""


@dataclass(frozen=True)
class Plan:
    folder: Path
    tokens: int
    turns: int
    length: int = LENGTH

    def batches(self, tokens: int) -> list[Batch]:
        """One document a row, as many rows as hold `tokens` targets."""
        count = max(1, round(tokens / (self.length - 1)))
        ids = token_rows(self.folder, 1, count, self.length)[0]
        return [self._batch(ids[start : start + ROWS], start) for start in range(0, count, ROWS)]

    def _batch(self, ids: Tensor, first: int) -> Batch:
        targets = torch.full_like(ids, IGNORED)
        targets[:, :-1] = ids[:, 1:]
        nothing, positions = torch.zeros_like(ids), torch.arange(self.length).expand_as(ids)
        keys = tuple((f"{first + row:06d}",) for row in range(len(ids)))
        return Batch(ids, targets, positions, nothing, nothing, nothing, keys=keys)


def main(
    tokens: int = 10_000,
    rounds: int = 5,
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16"),
    model: Path | None = None,
    tiny: bool = False,
    output: Path | None = None,
) -> bool:
    """Measure, print Markdown tables, and write them with all numbers to benchmarks/results.

    Args:
        tokens: How many are compared.
        rounds: How often each is timed, after one turn that is not.
        precisions: fp32 throughout, or as a run: teacher in bf16, student under bf16 autocast.
        model: A folder with another teacher than SmolLM2-135M-Instruct.
        tiny: A random model of no consequence, to see that everything runs. Written only to
            `output`.
        output: Where to write instead, without suffix.

    Returns:
        Whether everything ran.
    """
    machine = machine_facts()
    with tempfile.TemporaryDirectory() as folder:
        write_teacher(model, Path(folder), tiny)
        settle()
        plan = Plan(Path(folder), tokens, WARMUPS + rounds, length=32 if tiny else LENGTH)
        outcomes = {precision: heat(precision, plan, rounds) for precision in precisions}
    broken = [one.error for heat in outcomes.values() for one in heat.values() if one.error]
    if broken:
        print(broken[0], file=sys.stderr)
        return False
    facts = {
        "machine": machine,
        "model": "random" if tiny else str(model.name if model else "SmolLM2-135M-Instruct"),
        "tokens": tokens, "rows": ROWS, "length": plan.length, "warmups": WARMUPS,
        "precisions": {name: compared(heat) for name, heat in outcomes.items()},
    }  # fmt: skip
    facts["goals"] = [] if tiny else goals(facts["precisions"])
    publish(tables(facts), facts, output or (None if tiny else RESULTS / "fidelity"))
    return True


def heat(precision: str, plan: Plan, rounds: int) -> dict[str, Outcome]:
    """The floor and fidelity in turns, and fidelity of fewer tokens for its memory."""
    entries = {
        "floor": Entry(play, (plan, precision, plan.tokens, False)),
        "fidelity": Entry(play, (plan, precision, plan.tokens, True)),
        "fewer": Entry(play, (plan, precision, plan.tokens // PART, True)),
    }
    return take_turns(entries, warmups=WARMUPS, rounds=rounds)


def play(clock: Clock, plan: Plan, precision: str, tokens: int, whole: bool) -> Facts:
    """All turns of one of them."""
    source = ModelSource(model=str(plan.folder))
    model = load_model(source, plan.folder, DTYPES[precision]).eval()
    teacher, student = LocalTeacher(model), split_head(half(model), len(model.lm_head.weight))
    autocast = torch.bfloat16 if precision == "bf16" else None
    tokenizer, batches = load_text_tokenizer(plan.folder), plan.batches(tokens)
    said: Facts = {}
    before = settle()
    for _ in range(plan.turns):
        clock.begin()
        if whole:
            found = measure(student, teacher, batches, tokenizer, autocast=autocast)
            own = found.student()
            found.teacher()
            assert own.forward_kl is not None
            said = {"forward_kl": own.forward_kl.value, "tokens": found.tokens}
        else:
            for batch in batches:
                floor(student, teacher, batch, autocast)
        clock.end()
    return {**said, "memory_mib": peak_mib() - before}


@torch.no_grad()
def floor(
    student: Trunk, teacher: LocalTeacher, batch: Batch, autocast: torch.dtype | None
) -> None:
    """Both bodies, and the products with both heads in fp32, into memory that is used again."""
    with observing(student.model), torch.autocast("cpu", autocast, enabled=autocast is not None):
        own = student.hidden(batch)[batch.is_target].float()
    told = teacher.signals(batch, WANTED).distribution
    assert isinstance(told, Headed)
    heads = [(own, student.head().rows.float()), (told.hidden.float(), told.head.rows.float())]
    vocabulary = len(heads[0][1])
    most = max(FEWEST_ROWS, EAGER_CHUNK_BYTES // (2 * vocabulary * 4))
    out = [torch.empty(most, vocabulary) for _ in heads]
    for start in range(0, len(own), most):
        for (hidden, rows), into in zip(heads, out, strict=True):
            some = hidden[start : start + most]
            torch.mm(some, rows.t(), out=into[: len(some)])


def compared(outcomes: dict[str, Outcome]) -> Facts:
    floor, whole, fewer = (outcomes[name] for name in ("floor", "fidelity", "fewer"))
    return {
        "floor_seconds": floor.seconds,
        "seconds": whole.seconds,
        "ratios": [a / b for a, b in zip(whole.seconds, floor.seconds, strict=True)],
        "processors": {name: one.processors for name, one in outcomes.items()},
        "memory_mib": whole.final["memory_mib"],
        "memory_mib_of_fewer": fewer.final["memory_mib"],
        "tokens": whole.final["tokens"],
        "tokens_of_fewer": fewer.final["tokens"],
        "forward_kl": whole.final["forward_kl"],
    }


def goals(precisions: dict[str, Facts]) -> list[dict[str, Any]]:
    found = []
    for name, one in precisions.items():
        ratio = statistics.median(one["ratios"])
        growth = one["memory_mib"] - one["memory_mib_of_fewer"]
        times = f"memory at {PART} times the tokens, MiB more"
        found.append(goal(f"{name}: fidelity beside its two forward passes", ratio, most=MOST))
        found.append(goal(f"{name}: {times}", growth, most=GROWTH_MIB))
    return found


def tables(facts: Facts) -> str:
    header = [
        "", "two forward passes, seconds", "fidelity, seconds", "ratio, median [min–max]",
        "memory over models, MiB", f"the same at 1/{PART} of the tokens",
    ]  # fmt: skip
    rows = [
        [
            name,
            spread(one["floor_seconds"], digits=2),
            spread(one["seconds"], digits=2),
            spread(one["ratios"], digits=2),
            f"{one['memory_mib']:,.0f}",
            f"{one['memory_mib_of_fewer']:,.0f}",
        ]
        for name, one in facts["precisions"].items()
    ]
    shares = [each for one in facts["precisions"].values() for each in one["processors"].values()]
    first = next(iter(facts["precisions"].values()))
    parts = [
        described(facts["machine"]),
        f"### {facts['model']} and half its layers, {first['tokens']:,} tokens in rows of "
        f"{facts['length']}, {facts['rows']} rows at once",
        table(header, rows),
        f"In the median, each had {statistics.median(shares):.2f} processors to itself.",
    ]
    return "\n\n".join([*parts, *([goals_table(facts["goals"])] if facts["goals"] else [])])


if __name__ == "__main__":
    try:
        sys.exit(not tyro.cli(main))
    except UsageError as error:
        sys.exit(f"fidelity.py: {error}")
