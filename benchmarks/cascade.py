"""Is a student better that becomes smaller in two steps than one that is cut at once?

    python benchmarks/cascade.py FOLDER [--text FILE] [--minutes 12] [--seeds 0 1 2] [--threads 1]

A Llama of ten million parameters is trained from nothing on real text, then cut by 75 %: at once,
or by a half and by a half again, each distilled back, on equally many tokens in all. FOLDER gets
the text, the tokenizer and a run for each; called again, it goes on, and repeats nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml
from cascade_table import Arm, Measured, described, paired
from cascade_teacher import SHAPE, Shape, prepare
from machine import facts as machine_facts
from results import RESULTS, publish
from tyro.conf import Positional

from nexus.errors import UsageError
from nexus.hub import read_config
from nexus.planning.hollow import Hollow
from nexus.pruning.sizes import Sizes
from nexus.results import Evaluation
from nexus.students.pruned import Pruned

ARMS = (
    Arm("one-shot", "at once"),
    Arm("cascade", "in two steps", steps_down=2),
    Arm("cascade-previous", "in two steps, taught by the student before", 2, "previous"),
    Arm("one-shot-ce", "at once, cross-entropy", learns="ce"),
    Arm("one-shot-flops", "at once, as many FLOPs as in two steps", like="cascade"),
)
NAMES = tuple(arm.name for arm in ARMS)

HALF, QUARTER = 0.5, 0.25
"""What is left of the teacher's parameters after the first step down, and after the second."""

TIMED, UNTIMED = 8, 3
"""Steps of the runs that say how many fit into the time, and how many of them do not count."""

STUDENT_SHARE = 1 / 6
"""How long a student trains, of the time that the teacher takes."""


@dataclass(frozen=True)
class Plan:
    """What all runs share."""

    folder: Path
    shape: Shape
    minutes: float
    threads: int
    teacher_rate: float
    learning_rate: float
    first_share: float
    tokens_per_step: int
    sequence_length: int
    given: dict[str, int] = field(default_factory=dict)
    """Steps of the teacher and of the students, in place of what fits into the time."""

    @cached_property
    def teacher(self) -> Path:
        """The run that the teacher comes from, carried out if it is still to be."""
        recipe = self.teacher_recipe(self.steps("teacher"), f"teacher-{self.steps('teacher')}")
        return self.run(recipe)

    def teacher_recipe(self, steps: int, name: str) -> dict[str, Any]:
        """Of random weights, and of the text alone: the placeholder has the tokenizer."""
        return self._recipe(
            name,
            seed=0,
            teacher="placeholder",
            student={"kind": "scratch", "config": "shape.json"},
            objectives=[{"kind": "task"}],
            train=self._train(steps, self.teacher_rate),
        )

    def recipe(self, arm: Arm, seed: int, steps: int, name: str) -> dict[str, Any]:
        kd = {"kind": "output", "divergence": "forward_kl", "temperature": 1.0}
        objectives = [kd if arm.learns == "kd" else {"kind": "task"}]
        teacher = str(self.teacher.relative_to(self.folder) / "student")
        if arm.steps_down == 1:
            return self._recipe(
                name, seed=seed, teacher=teacher, student=self.cut(QUARTER), objectives=objectives,
                train=self._train(steps, self.learning_rate),
            )  # fmt: skip
        first = round(steps * self.first_share)
        half = {"name": "half", "objectives": objectives}
        quarter = {
            "name": "quarter",
            "student": self.cut(QUARTER),
            "teacher": arm.teacher,
            "objectives": objectives,
        }
        stages = [
            {**half, "train": self._train(first, self.learning_rate)},
            {**quarter, "train": self._train(steps - first, self.learning_rate)},
        ]
        return self._recipe(
            name, seed=seed, teacher=teacher, student=self.cut(HALF), stages=stages
        )  # fmt: skip

    def cut(self, share: float) -> dict[str, Any]:
        """The shape that a rule finds for a share of the teacher, so that all arms end in one."""
        teacher = Hollow(read_config(self.folder / "shape.json")).model
        sizes: Sizes = Pruned(target=share).sizes(teacher)
        shape = {"layers": sizes.layers, "hidden": sizes.hidden, "neurons": sizes.neurons}
        return {"kind": "pruned", "shape": shape}

    def _train(self, steps: int, rate: float) -> dict[str, Any]:
        return {
            "steps": steps,
            "tokens_per_step": self.tokens_per_step,
            "micro_batch_rows": max(1, self.tokens_per_step // self.sequence_length),
            "learning_rate": rate,
            "schedule": "cosine",
            "warmup_steps": max(2, steps // 20),
            "precision": "bf16",
            "compile": False,
            "save_every": max(50, steps // 4),
            "heldout_every": 0,
            "keep_checkpoints": 1,
            "dashboard": "none",
        }

    def _recipe(self, name: str, seed: int, teacher: str, **parts: Any) -> dict[str, Any]:
        return {
            "output": f"runs/{name}",
            "seed": seed,
            "teacher": {"kind": "local", "model": teacher},
            "data": {
                "sources": [{"kind": "jsonl", "path": "train.jsonl"}],
                "heldout": [{"kind": "jsonl", "path": "heldout.jsonl"}],
                "sequence_length": self.sequence_length,
                "over_long": "split",
            },
            **parts,
            "check": {"stop": False},  # the placeholder knows nothing; findings are in the report
            "evaluate": {"speed_seconds": 0, "samples": 0, "rollouts": 0},
        }

    def run(self, recipe: dict[str, Any]) -> Path:
        """Carry out a run, or what is left of it; returns its directory."""
        run = self.folder / str(recipe["output"])
        file, text = self.folder / f"{run.name}.yaml", yaml.safe_dump(recipe, sort_keys=False)
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise UsageError(f"{file} is another recipe: choose another folder, or those settings")
        if not (run / "report.html").exists():
            file.write_text(text, encoding="utf-8")
            print(run.name, file=sys.stderr)
            distil(file, self.threads)
        return run

    def steps(self, whose: Literal["teacher", "students"]) -> int:
        """How many steps fit into the time, on this machine; what was found once is kept."""
        if whose in self.given:
            return self.given[whose]
        file = self.folder / f"steps-{whose}.json"
        if file.exists() and (known := json.loads(file.read_text()))["minutes"] == self.minutes:
            return int(known["steps"])
        if whose == "teacher":
            share = 1.0
            run = self.run(self.teacher_recipe(TIMED, "teacher-timing"))
        else:
            share = STUDENT_SHARE
            run = self.run(self.recipe(ARMS[1], 0, 2 * TIMED, "students-timing"))
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        counted = [line for line in lines if line["step"] > UNTIMED]
        stages = {line["stage"] for line in counted}
        seconds = statistics.mean(
            statistics.median(line["seconds"] for line in counted if line["stage"] == stage)
            for stage in stages
        )
        steps = max(20, round(share * self.minutes * 60 / seconds))
        file.write_text(json.dumps({"minutes": self.minutes, "steps": steps, "seconds": seconds}))
        return steps

    def measure(self, arm: Arm, seed: int, steps: int) -> Measured:
        name = f"{arm.name}-{steps}-{seed}"
        evaluation = Evaluation.load(self.run(self.recipe(arm, seed, steps, name)))
        if evaluation is None or evaluation.heldout is None:
            raise UsageError(f"runs/{name} was not evaluated: delete it and try again")
        return Measured.of(evaluation, arm, steps * self.tokens_per_step)


def distil(recipe: Path, threads: int) -> None:
    command = [sys.executable, "-m", "nexus", "distill", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def measured(
    plan: Plan, arms: Sequence[Arm], seeds: Sequence[int]
) -> dict[str, dict[int, Measured]]:
    """All arms with all seeds, seed by seed, so that what is there first can be compared."""
    found: dict[str, dict[int, Measured]] = {arm.name: {} for arm in arms}
    for seed in seeds:
        for arm in arms:
            steps = plan.steps("students")
            if arm.like:
                own, other = found[NAMES[0]][seed], found[arm.like][seed]
                steps = round(steps * other.flops / own.flops)
            found[arm.name][seed] = plan.measure(arm, seed, steps)
    return found


def main(
    folder: Positional[Path],
    text: tuple[Path, ...] = (),
    minutes: float = 12.0,
    seeds: tuple[int, ...] = (0, 1, 2),
    arms: tuple[str, ...] = NAMES,
    threads: int = 1,
    shape: Shape = SHAPE,
    teacher_rate: float = 2e-3,
    learning_rate: float = 1e-3,
    first_share: float = 0.5,
    tokens_per_step: int = 512,
    sequence_length: int = 256,
    teacher_steps: int | None = None,
    steps: int | None = None,
    output: Path | None = RESULTS / "cascade",
) -> None:
    """Train the teacher, then every arm with every seed, and compare.

    Args:
        folder: where all of it is, or is to be.
        text: JSONL files with a column `text`; by default the documentation that Python carries.
        minutes: of training of the teacher; each student has a sixth of it.
        seeds: of the order of text.
        arms: which. The last needs the first two.
        threads: of each run.
        shape: of the teacher, and how many tokens its tokenizer has.
        teacher_rate: the teacher's peak learning rate.
        learning_rate: that of all students.
        first_share: of the tokens, what the larger of the two students of a cascade has.
        tokens_per_step: of all.
        sequence_length: of the rows that text is packed into.
        teacher_steps: so many, in place of what fits into the time.
        steps: of a student, likewise.
        output: where the tables go, without a suffix.
    """
    torch.set_num_threads(threads)
    prepare(folder, text, shape)
    given = {"teacher": teacher_steps, "students": steps}
    plan = Plan(
        folder, shape, minutes, threads, teacher_rate, learning_rate, first_share,
        tokens_per_step, sequence_length, {k: v for k, v in given.items() if v is not None},
    )  # fmt: skip
    machine = machine_facts()
    chosen = [arm for arm in ARMS if arm.name in arms]
    found = measured(plan, chosen, seeds)
    taught = Evaluation.load(plan.teacher)
    facts = {
        "machine": machine,
        "text": [f"{path.parent.name}/{path.name}" for path in text] or ["Python's documentation"],
        "shape": shape.model_dump(),
        "cuts": {share: plan.cut(share)["shape"] for share in (HALF, QUARTER)},
        "teacher": {
            "steps": plan.steps("teacher"),
            "tokens": plan.steps("teacher") * tokens_per_step,
            "parameters": taught.size["student"].parameters if taught else None,
        },
        "learning_rates": {"teacher": teacher_rate, "students": learning_rate},
        "first_share": first_share,
        "seeds": seeds,
        "arms": {
            name: {seed: one.facts for seed, one in runs.items()} for name, runs in found.items()
        },
        "paired": paired(found),
    }
    publish(described(facts, chosen, found), facts, output)


if __name__ == "__main__":
    tyro.cli(main)
