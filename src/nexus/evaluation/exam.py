"""Exam: the same tasks put to several models, each item asked once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.evaluation.answers import Answers
from nexus.evaluation.kept import Kept
from nexus.evaluation.scoreboard import task_result
from nexus.evaluation.tasks.running import facts, run
from nexus.evaluation.tasks.task import TaskFacts, TaskSpec
from nexus.results import TaskResult
from nexus.voice import Say


@dataclass(frozen=True)
class Examinee:
    """A model that answers, or has answered."""

    model: Callable[[], PreTrainedModel] | None
    """Loads it, if anything is still to be asked. Absent: it can only have answered before."""
    tokenizer: PreTrainedTokenizerBase
    kept: Kept

    def answers(self, task: TaskSpec, known: TaskFacts, folder: Path, say: Say) -> Answers | None:
        """All answers to a task: what is kept of them, and the rest asked if it can be.

        Args:
            task: what to ask.
            known: its facts.
            folder: what its paths are relative to.
            say: told how far asking is.
        """
        load = self.model
        if load is None:
            return self.kept.known_answers(task.name, known.fingerprint)
        return self.kept.answers(
            task.name,
            known.fingerprint,
            lambda ledger: run(task, load(), self.tokenizer, folder=folder, ledger=ledger, say=say),
        )


def exam(
    tasks: Iterable[TaskSpec],
    examinees: Mapping[str, Examinee],
    *,
    folder: Path,
    trained_on: Callable[[TaskSpec], bool] = lambda task: False,
    say: Say = lambda text: None,
    seed: int = 0,
) -> dict[str, TaskResult]:
    """Put every task to every model, and compare the answers item by item.

    Args:
        tasks: what to ask.
        examinees: by name: `teacher`, `untrained`, `trained`, whichever there are.
        folder: what the tasks' paths are relative to.
        trained_on: whether the training mix holds data of a task.
        say: told which task is put to which model.
        seed: of the resampling.

    Raises:
        UsageError: a task cannot be read; before any model is asked.
    """
    begun = [(task, facts(task, folder)) for task in tasks]
    results = {}
    for task, known in begun:
        start = time.perf_counter()
        answers = {}
        for name, examinee in examinees.items():
            say(f"{known.items:,} items of '{task.name}' are put to the {name} model")
            if (found := examinee.answers(task, known, folder, say)) is not None:
                answers[name] = found
        results[task.name] = task_result(
            kind=known.kind,
            metric=known.metric,
            chance=known.chance,
            fingerprint=known.fingerprint,
            trained_on=trained_on(task),
            answers=answers,
            seconds=round(time.perf_counter() - start, 3),
            seed=seed,
        )
    return results
