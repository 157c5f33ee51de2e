"""What the tasks give reason to say."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.report.reading import RunFiles
from nexus.report.symptom import Rule, Symptom
from nexus.report.words import cell, count
from nexus.results import Estimate, TaskResult

LOW_RETENTION = 0.8
"""Of a task that was trained on, and of the teacher's score above chance. A choice: a fifth
lost is noticed in use. The whole interval must lie below."""

MANY_UNANSWERED = 0.1
"""Of the items: more than that and a score measures the form more than the skill."""

AS_OFTEN = 2
"""Times the teacher: below that the form itself is hard, for both."""


def teacher_at_chance(files: RunFiles) -> Symptom | None:
    """A task that the teacher cannot do says nothing of distillation.

    As the evaluation has it: the lower end of its 95 % interval does not lie above chance.
    """
    names = [name for name, task in _tasks(files) if task.teacher_above_chance is False]
    if not names:
        return None
    return Symptom(
        "notable",
        "The teacher does not do better than guessing on some tasks",
        f"its interval holds chance on {_list(names)}",
        "The task is too hard for it, put in another form than it knows, or has too few items",
        "Leave these tasks out, or ask more items: a student of this teacher cannot learn them",
    )


def low_retention(files: RunFiles) -> Symptom | None:
    """Much of the teacher's skill is missing where it was trained for: LOW_RETENTION is not met."""
    lost = [
        f"{name} {cell(kept).line}"
        for name, task in _tasks(files)
        if task.trained_on
        and isinstance(kept := task.retention.get("above_chance"), Estimate)
        and kept.high is not None
        and kept.high < LOW_RETENTION
    ]
    if not lost:
        return None
    return Symptom(
        "notable",
        "Tasks that were trained on keep little of the teacher's skill",
        f"kept above chance: {_list(lost)}",
        "Too few steps, too small a share of the data, or too small a student",
        "Raise these tasks' share in data.weights, train longer, or choose a larger student",
    )


def forgetting(files: RunFiles) -> Symptom | None:
    """Worse than before training at what was not trained on.

    The whole paired interval lies below zero; how far is not asked, since nobody wanted any loss.
    """
    lost = []
    for name, task in _tasks(files):
        comparison = task.comparisons.get("trained - untrained")
        if task.trained_on or comparison is None or comparison.difference.high is None:
            continue
        if comparison.difference.high < 0:
            lost.append(f"{name} {cell(comparison.difference).line}")
    if not lost:
        return None
    return Symptom(
        "serious",
        "The student forgot what it was not trained on",
        f"change from the untrained student: {_list(lost)}",
        "The training mix holds nothing that would keep these skills",
        "Mix general text into data.sources, lower train.learning_rate, or train an adapter "
        "(train.lora)",
    )


def unanswered(files: RunFiles) -> Symptom | None:
    """Answers in another form than asked are counted as wrong, whatever they know.

    More than MANY_UNANSWERED of them, and more than AS_OFTEN as many as the teacher's.
    """
    lost = []
    for name, task in _tasks(files):
        own, teachers = task.unanswered.get("trained", 0), task.unanswered.get("teacher", 0)
        if own > MANY_UNANSWERED * task.items and own > AS_OFTEN * teachers:
            lost.append(f"{name} {count(own)} of {count(task.items)}, teacher {count(teachers)}")
    if not lost:
        return None
    return Symptom(
        "notable",
        "The student often does not answer in the form that was asked for",
        f"without an answer: {_list(lost)}",
        "It has not learnt the form, or stops too early or too late",
        "Train on examples in the task's own form, with the end of the answer among the targets",
    )


RULES: tuple[Rule, ...] = (forgetting, low_retention, unanswered, teacher_at_chance)


def _tasks(files: RunFiles) -> Iterable[tuple[str, TaskResult]]:
    return files.evaluation.tasks.items() if files.evaluation else ()


def _list(names: list[str]) -> str:
    return "; ".join(names)
