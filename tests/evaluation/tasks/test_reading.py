"""Whatever is wrong with a file of items is said in one line: place, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.classification import Classification
from nexus.evaluation.tasks.cloze import Cloze
from nexus.evaluation.tasks.reading import read_rows, render

CHOICE = {"id": "a", "question": "Q?", "choices": ["x", "y"], "label": 0}
CLOZE = {"id": "a", "context": "C", "target": "t"}
CLASS = {"id": "a", "text": "T", "label": 0, "label_text": "n"}
OTHER = CLASS | {"id": "o", "label": 1, "label_text": "m"}
GOOD = {"id": "first"}


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != column}


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        (Choice, without(CHOICE, "label"), "column 'label' is missing"),
        (Choice, without(CHOICE, "question"), "column 'question' is missing"),
        (Choice, CHOICE | {"label": 2}, "'label' is 2, which is out of range: it must be 0 to 1"),
        (Choice, CHOICE | {"label": -1}, "'label' is -1, .* 0 to 1, since there are 2 choices"),
        (Choice, CHOICE | {"label": "B"}, "'label' is 'B': it must be a whole number from 0"),
        (Choice, CHOICE | {"label": True}, "'label' is True: it must be a whole number"),
        (Choice, CHOICE | {"label": 1.0}, "'label' is 1.0: it must be a whole number"),
        (Choice, CHOICE | {"choices": ["x"]}, "'choices' has 1: give at least 2"),
        (Choice, CHOICE | {"choices": "xy"}, "'choices' is 'xy': it must be a list of strings"),
        (Choice, CHOICE | {"choices": ["x", " "]}, r"'choices'\[1\] is empty"),
        (Choice, CHOICE | {"question": None}, "'question' is None: it must be a string"),
        (Cloze, without(CLOZE, "target"), "column 'target' is missing"),
        (Cloze, CLOZE | {"target": ""}, "'target' is empty: fill it in"),
        (Classification, CLASS | {"label": 7}, "'label' is 7|labels are"),
        (Classification, without(CLASS, "text"), "column 'text' is missing.*did you mean"),
        (Classification, without(CLASS, "label_text"), "column 'label_text' is missing"),
        (Classification, CLASS | {"label_text": "m"}, "'label_text' is 'm' for label 0, .* 'n'"),
        (Choice, without(CHOICE, "id"), "column 'id' is missing: give every row a string"),
        (Choice, CHOICE | {"id": None}, "column 'id' is None"),
        (Choice, CHOICE | {"id": "first"}, "the id 'first' is also that of items.jsonl:1"),
        (Cloze, "{'id': 1}", "not JSON"),
        (Cloze, "[1]", "the line holds a list, not an object"),
    ],
)
def test_a_row_that_cannot_be_used(
    kind: Any, row: Any, reason: str, write_items: Any, tmp_path: Path
) -> None:
    good = {Choice: [CHOICE], Cloze: [CLOZE], Classification: [CLASS, OTHER]}[kind]
    before = [each | {"id": f"first{n or ''}"} for n, each in enumerate(good)]
    with pytest.raises(UsageError, match=reason) as error:
        kind(path=write_items([*before, row])).items(tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("items.jsonl")
    if "labels are" not in str(error.value):
        assert str(error.value).startswith(f"items.jsonl:{len(before) + 1}:")


def test_of_several_the_first_is_named_and_the_others_counted(
    write_items: Any, tmp_path: Path
) -> None:
    bad = without(CHOICE, "label")
    rows = [CHOICE, bad | {"id": "b"}, bad | {"id": "c"}]
    with pytest.raises(UsageError, match=r"^items.jsonl:2: .* \(1 more row cannot be used.\)$"):
        Choice(path=write_items(rows)).items(tmp_path)


def test_a_file_without_items(write_items: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^items.jsonl: there is no item in it"):
        read_rows(write_items([]), tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^items.jsonl: there is no such file"):
        read_rows("items.jsonl", tmp_path)


def test_a_prompt_takes_its_words_from_the_row(write_items: Any, tmp_path: Path) -> None:
    row = read_rows(write_items([CLASS | {"text2": "{text} {}"}]), tmp_path)[0]
    assert render("{text}: {text2}? {} { text }", row) == "T: {text} {}? {} { text }"


def test_a_prompt_that_names_no_column(write_items: Any, tmp_path: Path) -> None:
    task = Choice(path=write_items([CHOICE]), prompt="{qestion}")
    with pytest.raises(UsageError, match="'qestion' is missing: did you mean 'question'"):
        task.items(tmp_path)
