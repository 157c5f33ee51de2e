"""The run directory: what is in it, whether it may be written into, and what is still to do."""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus.errors import UsageError
from nexus.recipe.load import differences, dump
from nexus.recipe.load import load as load_recipe
from nexus.recipe.schema import Recipe


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. Everything is written whole: aside first, then renamed."""

    path: Path

    @classmethod
    def open(cls, path: Path, recipe: Recipe, *, fresh: bool = False) -> RunDirectory:
        """Begin a run, or continue one made from the same recipe.

        Args:
            path: the directory, made if need be.
            recipe: what is to run.
            fresh: put an earlier run aside, under its name and the time, and begin anew.

        Raises:
            UsageError: if the directory holds a run of another recipe, or something else.
        """
        run = cls(path)
        if fresh and run.recipe_file.exists():
            path.rename(_unused(f"{path.resolve()}-{time.strftime('%Y%m%d-%H%M%S')}"))
        if run.recipe_file.exists():
            changed = differences(load_recipe(run.recipe_file), recipe)
            if changed:
                shown = "\n  ".join(changed[:5])
                raise UsageError(
                    f"{path} holds a run of another recipe:\n  {shown}\n"
                    "Set another `output`, undo the change, or start over with --fresh (the old "
                    "run is kept aside)"
                )
            return run
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "is not empty and holds no run" if path.is_dir() else "is a file"
            raise UsageError(f"'output' is {path}, which {what}. Choose another directory")
        path.mkdir(parents=True, exist_ok=True)
        run.write("recipe.yaml", dump(recipe))
        return run

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def student(self) -> Path:
        return self.path / "student"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        return self.report.exists() and (self.path / "evaluation.json").exists()

    def write(self, name: str, text: str) -> None:
        aside = self.path / f".{name}"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, self.path / name)

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.write(name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _unused(name: str) -> Path:
    """A path of this name, numbered if there is one already."""
    return next(
        path
        for number in itertools.count(1)
        if not (path := Path(name if number == 1 else f"{name}-{number}")).exists()
    )
