"""Which kind of task a file holds, told by the columns of its first row."""

from __future__ import annotations

from pathlib import Path

from nexus.errors import UsageError
from nexus.evaluation.tasks import AnyTask
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.classification import Classification
from nexus.evaluation.tasks.cloze import Cloze
from nexus.evaluation.tasks.generation import Generation
from nexus.evaluation.tasks.reading import read_rows
from nexus.evaluation.tasks.task import name_of

KINDS: tuple[tuple[type[Choice | Classification | Cloze | Generation], tuple[str, ...]], ...] = (
    (Choice, ("choices",)),
    (Cloze, ("context", "target")),
    (Classification, ("text", "label")),
    (Generation, ("question", "answer")),
    (Generation, ("input", "target")),
)
"""By kind, the columns that only it has. The first that fits is taken."""


def task_from_file(path: str, name: str | None = None, limit: int | None = None) -> AnyTask:
    """A task from nothing but its file, relative to the working directory.

    Raises:
        UsageError: there is no such file, or its first row is of no kind of task.
    """
    columns = read_rows(path, Path())[0].columns
    for spec, needed in KINDS:
        if all(column in columns for column in needed):
            return spec(path=path, name=name or name_of(path), limit=limit)
    known = "; ".join(
        f"{spec.model_fields['kind'].default}: {' and '.join(needed)}" for spec, needed in KINDS
    )
    raise UsageError(
        f"{path}:1: its columns ({', '.join(sorted(columns))}) are those of no task. Name the "
        f"columns as a task has them ({known}), or write the task into a recipe."
    )
