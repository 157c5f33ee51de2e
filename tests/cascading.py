"""A run that makes its student smaller twice, killed with SIGKILL at chosen moments.

python cascading.py FOLDER: writes FOLDER/told.json, a list of how each process ended. All of them
write into one run directory, beside that of a run which nobody disturbed. Started by
test_cascade.py, which takes the recipe from here.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent
KILL = signal.SIGKILL
LITTLE = {"calibration_tokens": 512}
"""To cut by, so that no time is lost on it."""


def write_workspace(folder: Path) -> Path:
    """Models with dropout, whose random numbers have to go on where they stopped; the recipe."""
    small = runpy.run_path(str(TESTS / "workspace.py"))
    path: Path = small["write_workspace"](folder)
    teacher = small["make_model"](layers=4, seed=1)
    teacher.config.attention_dropout = 0.2
    small["save"](folder / "teacher", teacher)
    texts = small["sentences"](64)
    small["write_rows"](folder / "train.jsonl", [{"text": text} for text in texts[:60]])
    small["write_rows"](folder / "heldout.jsonl", [{"text": text} for text in texts[60:]])
    path.write_text(yaml.safe_dump(recipe(small["RECIPE"]), sort_keys=False))
    return path


def recipe(given: dict[str, Any]) -> dict[str, Any]:
    """Three sizes: fewer layers, still fewer, and fewer neurons, taught by the student before."""
    values = {key: value for key, value in given.items() if key not in ("objectives", "train")}
    values["student"] = {"kind": "pruned", "shape": {"layers": 3}, **LITTLE}
    values["data"] = {**given["data"], "sequence_length": 64}
    values["check"] = {"stop": False}
    values["evaluate"] = {"speed_seconds": 0, "samples": 0, "rollouts": 0}
    train = {**given["train"], "steps": 3, "tokens_per_step": 128}
    task = {"kind": "task", "weight": 0.5}
    values["stages"] = [
        {"name": "three", "objectives": given["objectives"], "train": train},
        {
            "name": "two",
            "student": {"kind": "layers", "count": 2},
            "objectives": given["objectives"],
            "train": {**train, "tokens_per_step": 192},
        },
        {
            "name": "thin",
            "student": {"kind": "pruned", "shape": {"neurons": 32}, **LITTLE},
            "teacher": "previous",
            "objectives": [task, {**given["objectives"][0], "weight": 0.5}],
            "train": train,
        },
    ]
    return values


def moments(signalled: dict[str, Any]) -> list[Any]:
    moment, slow = signalled["Moment"], signalled["slow_flush"]
    return [
        moment("the first cut", (KILL,), exists="pruning"),
        moment("the first stage's last step", (KILL,), said="three 3/3"),
        moment("its student", (KILL,), exists="stages/three/.tmp-student/*", slowed=slow),
        moment("the second cut", (KILL,), said="cutting the student of stage 'two'"),
        moment("saving the cut", (KILL,), exists="stages/two/.tmp-cut/*", slowed=slow),
        moment("after the cut", (KILL,), said="as it was cut for stage 'two'"),
        moment("a step of the second stage", (KILL,), said="two 2/3"),
        moment("its last checkpoint", (KILL,), exists="checkpoints/two/step-000003"),
        moment("the second student", (KILL,), exists="stages/two/.tmp-student/*", slowed=slow),
        moment("the third cut", (KILL,), said="cutting the student of stage 'thin'"),
        moment("a step of the third stage", (KILL,), said="thin 1/3"),
        moment("a later step", (KILL,), said="thin 3/3"),
        moment("the last student", (KILL,), exists=".tmp-student/*", slowed=slow),
        moment("the end", ()),
    ]


def main(folder: Path) -> None:
    from nexus import cli

    signalled = runpy.run_path(str(TESTS / "signalled.py"))
    path = write_workspace(folder / "workspace")
    # The undisturbed run comes first, and imports here whatever is imported late.
    sys.argv = ["nexus", "distill", str(path), "--set", "output=undisturbed"]
    cli.main()
    run = path.parent / "disturbed"
    sys.argv[-1] = f"output={run.name}"
    said = folder / "said.txt"
    told = [signalled["disturb"](moment, run, said) for moment in moments(signalled)]
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    os.environ["NEXUS_MEMORY"] = "as the test has them"
    main(Path(sys.argv[1]))
