"""Every kind of task can be named in a list, and a file of questions shows which it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from nexus.evaluation.tasks import AnyTask
from nexus.evaluation.tasks.detection import task_from_file

ANY: TypeAdapter[Any] = TypeAdapter(AnyTask)


@pytest.mark.parametrize("kind", ["choice", "cloze", "classification", "generation", "lm_eval"])
def test_each_kind_is_in_the_list(kind: str) -> None:
    named = {"name": "x"} if kind == "lm_eval" else {"path": "x.jsonl"}
    assert ANY.validate_python({"kind": kind, **named}).kind == kind


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"question": "Q", "answer": "1", "rationale": "R"}, "generation"),
        ({"input": "Q", "target": "1", "task": "t"}, "generation"),
        ({"question": "Q", "choices": ["a", "b"], "label": 0, "answer": "a"}, "choice"),
        ({"context": "Q", "target": "1"}, "cloze"),
        ({"text": "Q", "label": 1}, "classification"),
    ],
)
def test_a_file_shows_its_kind(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"id": "1", **row}) + "\n")
    assert task_from_file(str(path)).kind == kind
