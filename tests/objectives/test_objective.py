from __future__ import annotations

from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.objectives.objective import Objective, TokenObjective
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.schedule import Linear


def test_is_called_by_its_kind_unless_named() -> None:
    assert Task().label == "task"
    assert Output(name="towards_the_large_one").label == "towards_the_large_one"


def test_weighs_one_unless_told() -> None:
    assert Task().weight == 1.0
    assert Task(weight=0.25).weight == 0.25


def test_weight_may_be_a_schedule() -> None:
    task = Task.parse({"weight": {"kind": "linear", "start": 0, "end": 1}})
    assert task.weight == Linear(start=0, end=1)
    assert Task(weight=Linear(start=0, end=1)) == task
    assert Task.parse(task.model_dump()) == task


@pytest.mark.parametrize(
    "weight, message",
    [
        (-1, "^'weight' is -1, but it should be greater than or equal to 0$"),
        ("heavy", "^'weight' is 'heavy', but it should be a valid number"),
        ({"kind": "linaer", "start": 0, "end": 1}, "'weight.kind' is 'linaer'.*'linear'"),
        ({"kind": "linear", "strat": 0, "start": 0, "end": 1}, "'weight.strat'.*'start'"),
        ({"kind": "linear", "start": 0}, "^'weight.end' is missing: add it$"),
        ({"start": 0, "end": 1}, "^'weight' has no 'kind'"),
    ],
)
def test_weight_that_cannot_be(weight: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Task.parse({"weight": weight})


@pytest.mark.parametrize("abstract", [Objective, TokenObjective])
def test_is_abstract(abstract: type[Objective]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        abstract(kind="nothing")
