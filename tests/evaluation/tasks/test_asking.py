"""Rows are put in words, examples come before them, and no example is asked itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus.data.faults import BadRow
from nexus.data.sources import Row
from nexus.errors import UsageError
from nexus.evaluation.tasks.asking import Examples, ask, form_of, letters_of
from nexus.evaluation.tasks.task import Item


def row(**columns: Any) -> Row:
    return Row({"id": "1", **columns}, "here:1")


def write(path: Path, *rows: dict[str, Any]) -> str:
    numbered = [{"id": str(number), **one} for number, one in enumerate(rows)]
    path.write_text("".join(json.dumps(one) + "\n" for one in numbered))
    return path.name


def test_each_schema_has_its_words() -> None:
    math = ask(row(question="2 + 2?", answer="4", rationale="Two and two."), "")
    assert math.prompt == "Question: 2 + 2?\nAnswer:"
    assert math.solution == "Two and two.\nThe answer is 4."
    choice = ask(row(question="Who barks?", choices=["cat", "dog"], label=1), "")
    assert choice.prompt == "Question: Who barks?\n(A) cat\n(B) dog\nAnswer:"
    assert (choice.answers, choice.label) == (("cat", "dog"), 1)
    assert choice.solution == "The answer is (B)."
    assert ask(row(input="True and", target="True"), "").prompt == "Q: True and\nA:"
    rationale = ask(row(input="Who?", choices=["cat", "dog"], label=0, answer="cat"), "")
    assert rationale.answers == ("cat", "dog"), "the choices, and not the answer's text"


def test_a_prompt_of_ones_own_names_columns_and_the_choices() -> None:
    asked = ask(row(question="Q", choices=["x", "y"], label=0), "{choices}\n{question}: ")
    assert asked.prompt == "(A) x\n(B) y\nQ: "


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"question": "Q"}, "has the columns 'id', 'question': a question needs"),
        ({"question": "Q", "answer": 4}, "column 'answer' is 4: it must be a string"),
        ({"question": "Q", "choices": ["x", "y"]}, "column 'label' is missing"),
        ({"question": "Q", "choices": ["x", "y"], "label": 2}, "out of range: it must be 0 to 1"),
        ({"question": "Q", "choices": ["x"] * 27, "label": 2}, "letters for 26"),
    ],
)
def test_a_row_that_is_no_question_says_what_it_lacks(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow) as error:
        ask(row(**columns), "")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("answer", "prompt", "form"),
    [
        ("42", "", "number"),
        ("-1,000.5", "", "number"),
        ("3/4", "", "number"),
        ("(B)", "Options:\n(A) x\n(B) y", "letter"),
        ("B", "Choices: (A) 1 (B) 2", "letter"),
        ("B", "Which vitamin?", "text"),
        ("Yes", "", "yes_no"),
        ("False", "", "yes_no"),
        ("invalid", "", "text"),
        ("3 apples", "", "text"),
    ],
)
def test_the_form_goes_by_the_right_answer(answer: str, prompt: str, form: str) -> None:
    assert form_of(Item("1", prompt, (answer,)), "auto") == form


def test_legal_letters_are_those_of_the_question_and_not_of_its_examples() -> None:
    item = Item("1", "Q: 1?\n(A) x (B) y (C) z\nA: (C)\n\nQ: 2?\n(A) x\n(B) y\nA:", ("(B)",))
    assert letters_of(item) == "AB"


def test_examples_come_first_with_their_answers(tmp_path: Path) -> None:
    name = write(
        tmp_path / "x.jsonl",
        {"question": "1 + 1?", "answer": "2"},
        {"question": "1 + 2?", "answer": "3"},
    )
    asked_row = row(question="2 + 2?", answer="4")
    asked = ask(asked_row, "")
    found = Examples(name, tmp_path, 1, "").before(asked_row, asked)
    assert found == "Question: 1 + 1?\nAnswer: The answer is 2.\n\nQuestion: 2 + 2?\nAnswer:"
    assert Examples(name, tmp_path, None, "").before(asked_row, asked).count("Question:") == 3


def test_more_shots_than_examples_is_told_in_one_line(tmp_path: Path) -> None:
    name = write(tmp_path / "x.jsonl", {"question": "1?", "answer": "1"})
    with pytest.raises(UsageError, match=r"'shots' is 3, but x.jsonl has 1 examples") as error:
        Examples(name, tmp_path, 3, "")
    assert "\n" not in str(error.value)


def test_an_example_cannot_be_asked(tmp_path: Path) -> None:
    name = write(tmp_path / "x.jsonl", {"question": "1 +  1?", "answer": "2"})
    leaking = row(question="1 + 1? ", answer="2")
    with pytest.raises(BadRow, match="its question is also an example, with the answer .*jsonl:1"):
        Examples(name, tmp_path, None, "").before(leaking, ask(leaking, ""))


def test_whole_prompts_go_by_task_and_hold_no_question_that_is_asked(tmp_path: Path) -> None:
    name = write(tmp_path / "x.jsonl", {"task": "t", "text": "Do it.\n\nQ: 1 + 1\nA: 2"})
    examples = Examples(name, tmp_path, None, "")
    fine = row(task="t", input="1 + 1 + 1", target="3")
    assert examples.before(fine, ask(fine, "")) == "Do it.\n\nQ: 1 + 1\nA: 2\n\nQ: 1 + 1 + 1\nA:"
    leaking = row(task="t", input="1 + 1", target="2")
    with pytest.raises(BadRow, match="also an example"):
        examples.before(leaking, ask(leaking, ""))
    foreign = row(task="u", input="1", target="1")
    with pytest.raises(BadRow, match="no prompt for the task 'u'"):
        examples.before(foreign, ask(foreign, ""))
    with pytest.raises(UsageError, match="leave out 'shots'"):
        Examples(name, tmp_path, 3, "")
