"""The run directory: what is in it, whether it may be written into, and what is still to do."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus import durable
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.lock import Lock, refuse_foreign
from nexus.recipe.load import Difference, differences, dump, settled
from nexus.recipe.load import load as load_recipe
from nexus.recipe.relocate import relocate
from nexus.recipe.schema import Recipe
from nexus.redaction import redacted
from nexus.results import Evaluation


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. Everything is written whole: aside first, then renamed."""

    path: Path
    begun_here: bool = field(default=False, compare=False)
    """Whether nothing was there before."""

    @classmethod
    def open(cls, path: Path, recipe: Recipe, folder: Path) -> RunDirectory:
        """Begin a run, or find the one that is there, for the process that holds its lock.

        Args:
            path: the directory, made if need be.
            recipe: what is to run.
            folder: what the recipe's paths are relative to.

        Raises:
            UsageError: if the directory holds something else.
        """
        refuse_foreign(path)
        path.mkdir(parents=True, exist_ok=True)
        durable.sweep(path)
        there = cls(path)
        if there.recipe_file.exists():
            if not there.is_finished:
                there.report.unlink(missing_ok=True)  # one that was asked for on the way
            return there
        run = cls(path, begun_here=True)
        run.write_recipe(recipe, folder)
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
        """Whether student, evaluation and report are there, and whole."""
        card = self.student / "README.md"
        if not (card.is_file() and self.report.is_file()):
            return False
        try:
            durable.verify(self.student)
            evaluated = Evaluation.load(self.path) is not None
        except (Damaged, UsageError):
            return False
        return evaluated and self.report.read_bytes().rstrip().endswith(b"</html>")

    @property
    def environment(self) -> dict[str, Any]:
        """What environment.json says; nothing if there is none.

        Raises:
            UsageError: if it is damaged.
        """
        file = self.path / "environment.json"
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise UsageError(
                f"{file} is damaged, so that nobody can tell whether the run would go on with "
                "what it was begun with. Restore it; or delete it, if nothing was changed; or "
                "start over with --fresh"
            ) from None

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe in which every `auto` is what it came to when the run began."""
        return settled(recipe, load_recipe(self.recipe_file))

    def differences(self, recipe: Recipe, folder: Path) -> list[Difference]:
        """Where a recipe is not the run's, wherever either of them lies."""
        return differences(load_recipe(self.recipe_file), self._own(recipe, folder))

    def reached(self, stages: tuple[str, ...]) -> tuple[str, int] | None:
        """The stage and step of the newest checkpoint, of the stages in their order."""
        for stage in reversed(stages):
            there = (self.path / "checkpoints" / stage).glob("step-*")
            numbers = [path.name.removeprefix("step-") for path in there]
            if steps := [int(number) for number in numbers if number.isdecimal()]:
                return stage, max(steps)
        return None

    def write(self, name: str, text: str) -> None:
        durable.write(self.path / name, redacted(text))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.write(name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def write_recipe(self, recipe: Recipe, folder: Path) -> None:
        """The recipe with its defaults, and with paths that hold from the run directory."""
        text = dump(self._own(recipe, folder))
        if not self.recipe_file.exists() or self.recipe_file.read_text(encoding="utf-8") != text:
            self.write("recipe.yaml", text)

    def _own(self, recipe: Recipe, folder: Path) -> Recipe:
        return relocate(recipe, folder, self.path).model_copy(update={"output": "."})


def put_aside(path: Path, lock: Lock) -> Path | None:
    """Rename an earlier run, whose lock is held, after the time; the lock stays with `path`.

    Returns:
        Where it is now, or nothing if there was no run.
    """
    if not (path / "recipe.yaml").exists():
        return None
    real = path.resolve()
    aside = _unused(f"{real}-{time.strftime('%Y%m%d-%H%M%S')}")
    real.rename(aside)
    durable.flush(real.parent)
    lock.follow(aside)
    return aside


def _unused(name: str) -> Path:
    """A path of this name, numbered if there is one already."""
    return next(
        path
        for number in itertools.count(1)
        if not (path := Path(name if number == 1 else f"{name}-{number}")).exists()
    )
