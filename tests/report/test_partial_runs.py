"""A page for whatever a run directory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.report.build import render
from nexus.report.card import model_card
from nexus.report.reading import read_run
from nexus.report.table import retention_table
from nexus.results import Evaluation


def parts(evaluation: Evaluation) -> dict[str, Evaluation]:
    heldout, speed = evaluation.heldout, evaluation.speed
    assert heldout is not None and speed is not None
    alone = heldout.model_copy(update={"teacher": None, "untrained": None, "gap_closed": {}})
    slow = speed.model_copy(update={"teacher": None, "speedup": {}, "batches": ()})
    return {
        "nothing": Evaluation(),
        "only tasks": Evaluation(tasks=evaluation.tasks),
        "no tasks": evaluation.model_copy(update={"tasks": {}}),
        "no teacher": Evaluation(heldout=alone, speed=slow),
        "only own text": Evaluation(rollouts=evaluation.rollouts),
        "only size": Evaluation(size=evaluation.size),
    }


NAMES = ["nothing", "only tasks", "no tasks", "no teacher", "only own text", "only size"]


@pytest.mark.parametrize("name", NAMES)
def test_page_card_and_table_say_what_there_is(
    run: Path, evaluation: Evaluation, name: str
) -> None:
    part = parts(evaluation)[name]
    part.save(run)
    page = render(read_run(run))
    assert ('id="tasks"' in page) == bool(part.tasks)
    assert ('id="economy"' in page) == bool(part.size or part.speed)
    assert ("Not measured yet" in page) == (part.heldout is None)
    assert model_card(run)
    headings = [str(column.header) for column in retention_table(part).columns]
    assert ("teacher" in headings) == (name in ("only tasks", "no tasks", "only size"))


@pytest.mark.parametrize("name", ["evaluation.json", "check.json", "environment.json"])
def test_a_damaged_file_is_named(run: Path, name: str) -> None:
    (run / name).write_text('{"torn": ')
    with pytest.raises(UsageError, match=name):
        read_run(run)
