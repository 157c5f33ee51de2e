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
from minitron_table import ARMS, NAMES, Arm, Run, described, goals, rows, with_earlier
from results import RESULTS, publish
from tyro.conf import Positional

from nexus import quickstart
from nexus.errors import UsageError
from nexus.hub import ModelSource, load_model
from nexus.products import bf16_over_fp32
from nexus.results import Evaluation
from nexus.students.pruned import Pruned

TIMED, UNTIMED = 6, 3
"""Steps of the run that says how many fit into the time, and how many of them do not count."""


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

    @property
    def shared(self) -> dict[str, Any]:
        """What runs must have in common to stand in one table."""
        return {
            "minutes": None if self.fixed_steps else self.minutes,
            "steps": self.fixed_steps,
            "learning_rate": self.learning_rate,
            "random_learning_rate": self.random_learning_rate,
            "tokens_per_step": self.tokens_per_step,
            "sequence_length": self.sequence_length,
            "precision": "bf16" if self.half else "fp32",
        }

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
            distil(file)
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


def distil(recipe: Path) -> None:
    command = [sys.executable, "-m", "nexus", "distill", str(recipe)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def runs(
    plan: Plan, targets: Sequence[float], arms: Sequence[Arm], seeds: Sequence[int], machine: str
) -> Iterator[Run]:
    """Train whatever is not trained yet: the first seed of all before the second of any."""
    for seed in seeds:
        for target in targets:
            steps = plan.steps(target)
            for arm in arms:
                output = f"runs/{target / 1e6:.0f}M-{steps}-{arm.name}-{seed}"
                place = plan.run(plan.recipe(arm, target, seed, steps, output))
                measured = Evaluation.load(place)
                if measured is None or measured.heldout is None:
                    raise UsageError(f"{place} was not evaluated: delete it and try again")
                lines = (place / "metrics.jsonl").read_text().splitlines()
                yield Run(
                    target=target,
                    arm=arm.name,
                    seed=seed,
                    tokens=steps * plan.tokens_per_step,
                    parameters=measured.size["student"].parameters,
                    minutes=sum(json.loads(line)["seconds"] for line in lines) / 60,
                    machine=machine,
                    heldout=measured.heldout,
                )


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

    The table is written after every run. Runs of the same plan that it held before, of any machine,
    stay in it.

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
    half = bf16_over_fp32(torch.device("cpu")) < 1
    plan = Plan(
        folder, minutes, learning_rate, random_learning_rate, tokens_per_step, sequence_length,
        half, steps,
    )  # fmt: skip
    place = output or RESULTS / (f"minitron-{steps}" if steps else f"minitron-{minutes:g}min")
    machine = machine_facts()
    del machine["load_before"]  # else runs of one machine would seem to be of several
    chosen = [arm for arm in ARMS if arm.name in arms]
    found: list[Run] = []
    for run in runs(plan, targets, chosen, seeds, machine_described(machine)):
        found.append(run)
        every = with_earlier(found, plan.shared, place.with_suffix(".json"))
        facts = {"plan": plan.shared, "runs": [each.facts() for each in every]}
        publish(described(every), facts | {"goals": goals(rows(every))}, place)


if __name__ == "__main__":
    tyro.cli(main)
