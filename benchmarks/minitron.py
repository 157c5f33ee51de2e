"""Is a student that was cut out of its teacher worth more than one that begins from nothing?

    python benchmarks/minitron.py FOLDER [--targets 101e6 80e6] [--minutes 10] [--seeds 0 1 2]

SmolLM2-135M-Instruct on the quickstart's text: pruned or of random weights, taught by the teacher
(forward KL) or by the text alone (cross-entropy), on equally many tokens. FOLDER becomes the
quickstart's workspace, with a run for each; called again, it goes on, and repeats nothing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import yaml
from machine import described as machine_described
from machine import facts as machine_facts
from results import RESULTS, goal, goals_table, publish, table
from tyro.conf import Positional

from nexus import quickstart
from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model
from nexus.products import bf16_over_fp32
from nexus.results import Estimate, Evaluation, Heldout
from nexus.students.pruned import Pruned

GOALS = {101e6: {"forward_kl": 0.42, "perplexity": 1.28}, 80e6: {"forward_kl": 0.58}}
"""What pruning and distilling is to reach in ten minutes, by target."""

TIMED, UNTIMED = 6, 3
"""Steps of the run that says how many fit into the time, and how many of them do not count."""


@dataclass(frozen=True)
class Arm:
    """Where a student comes from, and what it learns from."""

    begins: str
    learns: str

    @property
    def name(self) -> str:
        return f"{self.begins}-{self.learns}"

    @property
    def title(self) -> str:
        words = {"kd": "distilled", "ce": "cross-entropy", "random": "random weights"}
        return f"{words.get(self.begins, self.begins)}, {words[self.learns]}"


ARMS = tuple(Arm(begins, learns) for begins in ("pruned", "random") for learns in ("kd", "ce"))
NAMES = tuple(arm.name for arm in ARMS)


@dataclass(frozen=True)
class Plan:
    """What all runs share."""

    folder: Path
    minutes: float
    learning_rate: float
    random_learning_rate: float
    tokens_per_step: int
    sequence_length: int
    half: bool
    """Whether products are in bf16: where the processor is faster in it."""
    fixed_steps: int | None = None

    def recipe(self, arm: Arm, target: float, seed: int, steps: int, output: str) -> dict[str, Any]:
        student: dict[str, Any] = {"kind": "pruned", "target_params": target}
        rate = self.learning_rate
        if arm.begins == "random":
            student = {"kind": "scratch", "config": self.shape(target).name}
            rate = self.random_learning_rate
        distil = {"kind": "output", "divergence": "forward_kl", "temperature": 1.0}
        return {
            "output": output,
            "seed": seed,
            "teacher": {
                "kind": "local",
                "model": "teacher",
                "dtype": "bfloat16" if self.half else "float32",
            },
            "student": student,
            "data": {
                "sources": [{"kind": "jsonl", "path": "train.jsonl"}],
                "heldout": [{"kind": "jsonl", "path": "heldout.jsonl"}],
                "sequence_length": self.sequence_length,
                "over_long": "split",
            },
            "objectives": [distil if arm.learns == "kd" else {"kind": "task"}],
            "train": {
                "steps": steps,
                "tokens_per_step": self.tokens_per_step,
                "micro_batch_rows": 4,
                "learning_rate": rate,
                "schedule": "cosine",
                "warmup_steps": max(2, steps // 20),
                "precision": "bf16" if self.half else "fp32",
                "save_every": 200,
                "keep_checkpoints": 1,
            },
            "check": {"stop": False},  # what is not proved is in the run's report
            "evaluate": {"speed_seconds": 0, "samples": 0, "rollouts": 0},
        }

    def shape(self, target: float) -> Path:
        """The configuration of the pruned student, for one that begins with random weights."""
        file = self.folder / f"shape-{target / 1e6:.0f}M.json"
        if not file.exists():
            teacher = load_model(ModelSource(model="teacher"), self.folder)
            Pruned(target_params=target).config(teacher).to_json_file(file)
        return file

    def run(self, recipe: dict[str, Any]) -> Path:
        """Carry out a run, or what is left of it; returns its directory."""
        run = self.folder / str(recipe["output"])
        if not (run / "report.html").exists():
            file = self.folder / f"{run.name}.yaml"
            file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
            print(f"{run.name}: {recipe['train']['steps']} steps", file=sys.stderr)
            command = [sys.executable, "-m", "nexus", "distill", str(file)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return run

    def steps(self, target: float) -> int:
        """How many steps of a pruned student and its teacher fit into the time, on this machine."""
        if self.fixed_steps is not None:
            return self.fixed_steps
        file = self.folder / f"steps-{target / 1e6:.0f}M.json"
        if file.exists():
            known = json.loads(file.read_text())
            if known["minutes"] == self.minutes:
                return int(known["steps"])
        output = f"runs/{target / 1e6:.0f}M-timing"
        run = self.run(self.recipe(ARMS[0], target, 0, TIMED, output))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        seconds = statistics.median(json.loads(line)["seconds"] for line in lines[UNTIMED:])
        steps: int = max(20, round(self.minutes * 60 / seconds))
        file.write_text(json.dumps({"minutes": self.minutes, "steps": steps, "seconds": seconds}))
        return steps


@dataclass(frozen=True)
class Row:
    """One arm at one size, all seeds."""

    target: float
    arm: Arm
    steps: int
    tokens: int
    parameters: int
    runs: dict[int, Heldout]

    def values(self, measure: str, model: str = "trained") -> list[float]:
        return [self.estimate(run, measure, model).value for run in self.runs.values()]

    @staticmethod
    def estimate(heldout: Heldout, measure: str, model: str = "trained") -> Estimate:
        if measure == "perplexity_ratio":
            return heldout.perplexity_ratio[model]
        quality = getattr(heldout, model)
        found: Estimate = getattr(quality, measure)
        return found

    def cell(self, measure: str, digits: int, scale: float = 1.0, model: str = "trained") -> str:
        """The mean over seeds, their range, and the first one's interval over documents."""
        values = [scale * value for value in self.values(measure, model)]
        first = self.estimate(next(iter(self.runs.values())), measure, model)
        text = f"{statistics.mean(values):.{digits}f}"
        if len(values) > 1:
            text += f" [{min(values):.{digits}f}–{max(values):.{digits}f}]"
        if first.low is not None and first.high is not None:
            text += f" ({scale * first.low:.{digits}f}–{scale * first.high:.{digits}f})"
        return text


def rows(
    plan: Plan, targets: Sequence[float], arms: Sequence[Arm], seeds: Sequence[int]
) -> Iterator[Row]:
    for target in targets:
        steps = plan.steps(target)
        for arm in arms:
            found, parameters = {}, 0
            for seed in seeds:
                output = f"runs/{target / 1e6:.0f}M-{steps}-{arm.name}-{seed}"
                measured = Evaluation.load(plan.run(plan.recipe(arm, target, seed, steps, output)))
                if measured is None or measured.heldout is None:
                    raise UsageError(f"{output} was not evaluated: delete it and try again")
                found[seed] = measured.heldout
                parameters = measured.size["student"].parameters
            tokens = steps * plan.tokens_per_step
            yield Row(target, arm, steps, tokens, parameters, found)


def main(
    folder: Positional[Path],
    targets: tuple[float, ...] = (101e6, 80e6),
    minutes: float = 10.0,
    seeds: tuple[int, ...] = (0, 1, 2),
    arms: tuple[str, ...] = NAMES,
    learning_rate: float = 5e-4,
    random_learning_rate: float = 1e-3,
    tokens_per_step: int = 1024,
    sequence_length: int = 512,
    steps: int | None = None,
    output: Path | None = None,
) -> None:
    """Run every arm at every size with every seed, and compare.

    Args:
        folder: where the workspace is, or is to be.
        targets: parameters of the students.
        minutes: of training of the pruned and distilled student; the others see as many tokens.
        seeds: of the order of text, and of random weights.
        arms: which.
        learning_rate: of pruned students.
        random_learning_rate: of those that begin with random weights.
        tokens_per_step: of all.
        sequence_length: of the rows that text is packed into.
        steps: so many, in place of what fits into the time.
        output: where the table goes, without a suffix; by default among the results.
    """
    if not (folder / "recipe.yaml").exists():
        quickstart.write(folder, lambda text: print(text, file=sys.stderr))
    chosen = [arm for arm in ARMS if arm.name in arms]
    half = bf16_over_fp32(torch.device("cpu")) < 1
    plan = Plan(
        folder, minutes, learning_rate, random_learning_rate, tokens_per_step, sequence_length,
        half, steps,
    )  # fmt: skip
    machine = machine_facts()
    found = list(rows(plan, targets, chosen, seeds))
    goals = [
        goal(f"{row.target / 1e6:.0f}M: {name.replace('_', ' ')}", statistics.mean(row.values(
            "perplexity_ratio" if name == "perplexity" else name)), most=most)
        for row in found if row.arm == ARMS[0] and minutes == 10 and steps is None
        for name, most in GOALS.get(row.target, {}).items()
    ]  # fmt: skip
    facts = {
        "machine": machine,
        "seeds": seeds,
        "minutes": minutes,
        "precision": "bf16" if plan.half else "fp32",
        "rows": [
            {
                "target": row.target, "arm": row.arm.name, "steps": row.steps, "tokens": row.tokens,
                "parameters": row.parameters,
                "heldout": {seed: each.model_dump() for seed, each in row.runs.items()},
            }
            for row in found
        ],
        "goals": goals,
    }  # fmt: skip
    place = output or RESULTS / f"minitron-{minutes:g}min"
    publish(described(found, machine, plan, seeds, goals), facts, place)


def described(
    found: Sequence[Row], machine: dict[str, Any], plan: Plan, seeds: Sequence[int],
    goals: Sequence[dict[str, Any]],
) -> str:  # fmt: skip
    heldout = next(iter(found[0].runs.values()))
    header = [
        "student", "parameters", "tokens", "KL at first", "KL to the teacher", "agreement, %",
        "perplexity", "over the teacher's",
    ]  # fmt: skip
    lines = [
        [
            f"{row.target / 1e6:.0f}M {row.arm.title}", f"{row.parameters / 1e6:.1f}M",
            f"{row.tokens:,}", row.cell("forward_kl", 2, model="untrained"),
            row.cell("forward_kl", 3), row.cell("agreement", 1, 100),
            row.cell("perplexity", 1), row.cell("perplexity_ratio", 2),
        ]
        for row in found
    ]  # fmt: skip
    return "\n".join(
        [
            "# Pruned and distilled, or begun from nothing: equally many tokens", "",
            machine_described(machine), "",
            f"{_length(plan)}; seeds "
            f"{', '.join(map(str, seeds))}. {heldout.documents} held-out documents, "
            f"{heldout.tokens:,} tokens. Mean over seeds [range] (the first seed's 95 % interval "
            "over documents).", "",
            table(header, lines), "",
            *([goals_table(goals)] if goals else []),
        ]
    )  # fmt: skip


def _length(plan: Plan) -> str:
    if plan.fixed_steps is not None:
        return f"{plan.fixed_steps} steps"
    return f"{plan.minutes:g} minutes of training for the pruned and distilled student"


if __name__ == "__main__":
    tyro.cli(main)
