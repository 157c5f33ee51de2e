"""What does training within few bits bring, beside rounding alone and beside the wrong loss?

    python benchmarks/few_bits_learned.py MODEL TEXT --heldout FILE [--steps 200] [--seeds 3]

MODEL is a folder, TEXT a JSONL file to learn on, FILE one that nothing learns on. The model in few
bits is rounded to nearest, rounded with grids fitted to text, and then, from those grids, trained:
scales alone, or weights too, by forward KL to the model as it was; and weights by cross-entropy on
the text, which is quantisation-aware training without a teacher. All see the same tokens.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from few_bits import LENGTH, Whole, single_rows
from machine import described
from machine import facts as machine_facts
from results import RESULTS, publish, spread, table

from nexus.batch import Batch
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.quantization.learning import Learned, learned_layers
from nexus.quantization.scheme import Scheme, scheme_of
from nexus.recipe.few_bits import RATES
from nexus.training.loop import Stage, train
from nexus.training.module import DistillationModule
from nexus.training.parallel import Parallel
from nexus.training.prepare import prepare
from nexus.training.settings import TrainSpec

SCHEMES = {4: "64", 3: "32"}
"""Bits, and how many neighbours share a scale."""


@dataclass(frozen=True)
class Arm:
    """A way to train within few bits."""

    title: str
    learned: Learned
    loss: Literal["kl", "ce"]


ARMS = {
    "scales": Arm("+ scales, KL to the model", "scales", "kl"),
    "weights": Arm("+ weights, KL to the model", "weights", "kl"),
    "ce": Arm("+ weights, cross-entropy on the text", "weights", "ce"),
}


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    whole: Whole
    rows: list[Batch]
    """To learn on, and for grids to be fitted to."""
    settings: TrainSpec


def main(
    model: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[Path],
    /,
    heldout: Path,
    bits: tuple[int, ...] = tuple(SCHEMES),
    arms: tuple[str, ...] = tuple(ARMS),
    steps: int = 200,
    rows_a_step: int = 8,
    heldout_rows: int = 64,
    seeds: int = 3,
    rates: tuple[float, ...] = (),
    precision: Literal["bf16", "fp32"] = "bf16",
    output: Path = RESULTS / "few_bits_learned",
) -> bool:
    """Measure, print a Markdown table, and write it with all numbers, after every training.

    Args:
        model: A folder.
        text: A JSONL file to learn on.
        heldout: A JSONL file of other text.
        bits: 4 (in groups of 64), 3 (in groups of 32), or both.
        arms: Which ways to train.
        steps: Of training, each.
        rows_a_step: Rows of 256 tokens in a step.
        heldout_rows: How many such rows everything is measured on.
        seeds: Orders of the text that training is repeated with.
        rates: Peak learning rates that every arm is tried at; its own unless given.
        precision: Of products in training; all is measured in fp32.
        output: Where to write, without suffix.
    """
    machine = machine_facts()
    whole = Whole.load(model, heldout, heldout_rows)
    settings = TrainSpec(
        steps=steps, tokens_per_step=rows_a_step * LENGTH, warmup_steps=max(1, steps // 20),
        weight_decay=0.0, precision=precision, compile=False, save_every=steps, dashboard="none",
    )  # fmt: skip
    bench = Bench(whole, single_rows(text, whole.tokenizer, steps * rows_a_step), settings)
    plan = [(arm, rate, seed) for arm in arms for rate in rates or (None,) for seed in range(seeds)]
    found: list[dict[str, Any]] = []
    facts = {"machine": machine, "tokens": steps * rows_a_step * LENGTH, "found": found,
             "whole": whole.worth(whole.teacher.pretrained)}  # fmt: skip
    for each in bits:
        scheme = scheme_of(each, group_size=SCHEMES[each])
        rounded = whole.worth(whole.few(scheme))
        found.append({"scheme": str(scheme), "arm": "rounded", **rounded})
        fitted = whole.worth(whole.few(scheme, bench.rows))
        found.append({"scheme": str(scheme), "arm": "fitted", **fitted})
        publish(_page(facts, heldout_rows), facts, output)
        for one in plan:
            found.append(learnt(bench, scheme, *one))
            publish(_page(facts, heldout_rows), facts, output)
    return all(
        one["forward_kl"]["value"] < _fitted(found, one["scheme"])["forward_kl"]["value"]
        for one in found
        if one["arm"] in ("scales", "weights")
    )


def learnt(
    bench: Bench, scheme: Scheme, name: str, rate: float | None, seed: int
) -> dict[str, Any]:
    """What a model is worth that was trained within few bits."""
    arm, began = ARMS[name], time.perf_counter()
    rate = rate or RATES[arm.learned]
    settings = bench.settings.model_copy(update={"learning_rate": rate})
    teacher = bench.whole.teacher
    few = bench.whole.few(scheme, bench.rows)
    learned_layers(few, arm.learned, teacher.model)
    objective = Output() if arm.loss == "kl" else Task()
    with tempfile.TemporaryDirectory() as folder:
        module = DistillationModule(
            prepare(few, settings), WeightedSum((objective,)), teacher.vocabulary
        )
        stage = Stage(
            "quantize", module, teacher, Shuffled(bench.rows, settings, seed), settings,
            Path(folder),
        )  # fmt: skip
        train(stage, Parallel(), quiet=True)
    return {
        "scheme": str(scheme), "arm": name, "seed": seed, "learning_rate": rate,
        "seconds": round(time.perf_counter() - began, 1), **bench.whole.worth(few),
    }  # fmt: skip


class Shuffled:
    """The rows in an order that the seed decides."""

    def __init__(self, rows: list[Batch], settings: TrainSpec, seed: int) -> None:
        self.rows, self.each = rows, settings.tokens_per_step // LENGTH
        generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(len(rows), generator=generator).tolist()

    def take(self, step: int) -> list[Batch]:
        first = step * self.each
        return [
            self.rows[self.order[at % len(self.rows)]] for at in range(first, first + self.each)
        ]


def _fitted(found: Sequence[dict[str, Any]], scheme: str) -> dict[str, Any]:
    return next(one for one in found if (one["scheme"], one["arm"]) == (scheme, "fitted"))


def _cell(runs: Sequence[dict[str, Any]], measure: str, digits: int, scale: float = 1.0) -> str:
    """Over orders of the text, and the first one's interval over rows."""
    values = [scale * one[measure]["value"] for one in runs]
    text = spread(values, digits) if len(values) > 1 else f"{values[0]:,.{digits}f}"
    low, high = (scale * runs[0][measure][end] for end in ("low", "high"))
    return f"{text} ({low:,.{digits}f}–{high:,.{digits}f})"


def _page(facts: dict[str, Any], rows: int) -> str:
    header = ["", "rate", "KL, nats", "agreement", "perplexity", "seconds"]
    lines = []
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in facts["found"]:
        groups.setdefault((one["scheme"], one["arm"], one.get("learning_rate")), []).append(one)
    for (scheme, arm, rate), all_of in groups.items():
        title = {"rounded": f"{scheme}, rounded to nearest", "fitted": "fitted to text"}
        lines.append([
            title.get(arm) or ARMS[arm].title,
            "–" if rate is None else f"{rate:g}",
            _cell(all_of, "forward_kl", 4), _cell(all_of, "agreement", 1, 100),
            _cell(all_of, "perplexity", 2),
            "–" if rate is None else f"{statistics.median(o['seconds'] for o in all_of):,.0f}",
        ])  # fmt: skip
    whole = facts["whole"]["perplexity"]["value"]
    return "\n\n".join([
        "# Training within few bits",
        table(header, lines),
        f"{facts['tokens']:,} tokens of training; measured beside the model as it was on {rows} "
        f"held-out rows of {LENGTH} tokens, on which that has a perplexity of {whole:.2f}. Median "
        "[smallest–largest] over orders of the text (the first one's 95 % interval over rows).",
        described(facts["machine"]),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main) else 1)
