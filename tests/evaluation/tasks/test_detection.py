"""A file of no kind is told in one line; of the others the kind is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.evaluation.tasks.detection import task_from_file


def test_columns_of_no_task(write_items: Any, tmp_path: Path) -> None:
    path = tmp_path / write_items([{"id": "1", "prompt": "P", "completion": "C"}])
    with pytest.raises(UsageError, match="columns .completion, id, prompt. .* no task") as error:
        task_from_file(str(path))
    assert "cloze: context and target" in str(error.value)
    assert "\n" not in str(error.value)


def test_name_and_limit_are_the_callers(write_items: Any, tmp_path: Path) -> None:
    path = str(tmp_path / write_items([{"id": "1", "context": "C", "target": "t"}]))
    assert task_from_file(path).name == "items"
    named = task_from_file(path, name="mine", limit=3)
    assert (named.name, named.limit) == ("mine", 3)
