"""A task put to a model: read, asked, kept item by item, and told in the order of the task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.errors import NexusError
from nexus.evaluation.answers import Answers
from nexus.evaluation.mode import observing
from nexus.evaluation.tasks.ledger import Ledger
from nexus.evaluation.tasks.task import (
    Item,
    Scored,
    TaskFacts,
    TaskSpec,
    fingerprint,
    wording_fingerprint,
)
from nexus.fingerprint import of_model, of_tokenizer
from nexus.voice import Say


def facts(task: TaskSpec, folder: Path) -> TaskFacts:
    """What is known of a task before any model is asked.

    Raises:
        UsageError: its file is not there or has a row that cannot be used.
    """
    items = task.items(folder)
    return TaskFacts(
        kind=str(task.model_dump(include={"kind"})["kind"]),
        metric=task.headline,
        chance=task.chance(items),
        fingerprint=fingerprint(task, items),
        items=len(items),
    )


def run(
    task: TaskSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    folder: Path,
    ledger: Path | None = None,
    say: Say = lambda text: None,
) -> Answers:
    """Put every item of a task to a model, and none twice.

    Args:
        task: any kind.
        model: a causal language model, on its device. Its modes are restored afterwards.
        tokenizer: its own.
        folder: what the task's relative path is relative to.
        ledger: where scores are kept as they come, so that a run which died continues. Any number
            of tasks and models may share the file; only one process may write it.
        say: is told of progress, now and then.

    Raises:
        UsageError: the file or a row of it cannot be used.
        DiskFull, DiskFault: if the ledger cannot be written.
    """
    items = task.items(folder)
    book = Ledger(ledger, _asked(task, model, tokenizer)) if ledger else None
    found: dict[str, Scored] = {}
    if book:
        found = {item.key: known for item in items if (known := book.known(item))}
        if found:
            say(f"{task.name}: {len(found)} of {len(items)} items were scored before")
    waiting = [item for item in items if item.key not in found]
    if waiting:
        with observing(model):
            for scored in task.score(waiting, model, tokenizer):
                if book:
                    book.add(waiting, scored)
                found |= scored
                say(f"{task.name}: {len(found)} of {len(items)} items")
    if missing := [item.key for item in items if item.key not in found]:
        raise NexusError(f"Task '{task.name}' gave no score for item '{missing[0]}'.")
    return _answers(task, items, [found[item.key] for item in items])


def _answers(task: TaskSpec, items: Sequence[Item], scored: Sequence[Scored]) -> Answers:
    by_item = {name: np.array([one.scores[name] for one in scored]) for name in scored[0].scores}
    return Answers(
        keys=tuple(item.key for item in items),
        scores=by_item | dict(task.jointly(items, scored)),
        answered=np.array([one.answered for one in scored], dtype=bool),
    )


def _asked(task: TaskSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    parts = (
        wording_fingerprint(task),
        of_model(model),
        model.config.to_json_string(use_diff=True),
        of_tokenizer(tokenizer),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
