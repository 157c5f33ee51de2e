"""A run directory as the report sees it: whatever parts are there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nexus.errors import UsageError
from nexus.proofs import Check
from nexus.results import FEW_BITS, Evaluation

Step = dict[str, Any]
"""One line of metrics.jsonl."""


@dataclass(frozen=True)
class RunFiles:
    """What was read from a run directory. Parts that do not exist yet are empty."""

    path: Path
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    steps: list[Step]
    """Of the stages; training in few bits apart, whose teacher is the student."""
    unreadable_steps: int
    evaluation: Evaluation | None
    check: Check | None = None

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The recipe's stages; a recipe without any is one stage itself."""
        return list(self.recipe.get("stages") or [self.recipe])


def taught_by_corrected(evaluation: Evaluation | None) -> bool:
    """Whether text alone trained a stage, and what that left taught the last one."""
    stages = evaluation.stages if evaluation else ()
    corrected = any(stage.teacher == "none" for stage in stages[:-1])
    return corrected and stages[-1].teacher == "previous"


def read_run(run: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        UsageError: if it is none, or one of its files cannot be understood.
    """
    recipe_file = run / "recipe.yaml"
    if not recipe_file.is_file():
        what = "has no recipe.yaml in it" if run.is_dir() else "does not exist"
        raise UsageError(
            f"{run} is not a run directory: it {what}. "
            "Give the directory that a recipe names as its `output`."
        )
    for name in ("metrics.jsonl", "environment.json", "evaluation.json", "check.json"):
        if (run / name).exists() and not (run / name).is_file():
            raise UsageError(f"{run / name} is no file. Put it out of the way, or run again.")
    recipe_text = recipe_file.read_text(encoding="utf-8")
    steps, unreadable = _steps(run / "metrics.jsonl")
    recipe = _mapping(yaml.safe_load, recipe_text, recipe_file)
    if (recipe.get("quantize") or {}).get("distill"):
        steps = [step for step in steps if step.get("stage") != FEW_BITS]
    return RunFiles(
        path=run,
        recipe=recipe,
        recipe_text=recipe_text,
        environment=_environment(run / "environment.json"),
        steps=steps,
        unreadable_steps=unreadable,
        evaluation=Evaluation.load(run),
        check=Check.load(run),
    )


def _environment(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return _mapping(json.loads, path.read_text(encoding="utf-8"), path)


def _mapping(parse: Any, text: str, path: Path) -> dict[str, Any]:
    try:
        values = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Restore it, or run again.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__} where names and values belong.")
    return values


def _steps(path: Path) -> tuple[list[Step], int]:
    """Steps in their order, and how many lines were no step.

    A run that was killed after its last checkpoint writes some steps a second time when it goes on:
    the last account of a step is the one that led to the student. Its last line may be torn.
    """
    if not path.exists():
        return [], 0
    steps: dict[tuple[str, int], Step] = {}
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            step = json.loads(line)
            key = str(step.get("stage", "")), int(step["step"])
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
            continue
        steps.pop(key, None)
        steps[key] = step
    return list(steps.values()), unreadable
