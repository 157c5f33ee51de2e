"""Rows of questions → what a model is asked, in words, and what it should answer."""

from __future__ import annotations

import re
from pathlib import Path
from string import ascii_uppercase
from typing import Literal, NamedTuple

from nexus.data.faults import BadRow
from nexus.data.sources import Row
from nexus.errors import UsageError
from nexus.evaluation.tasks import extraction
from nexus.evaluation.tasks.reading import (
    key,
    label,
    read_items,
    read_rows,
    render,
    text,
    texts,
)
from nexus.evaluation.tasks.task import Item
from nexus.spec import shown

Form = Literal["auto", "number", "letter", "yes_no", "text"]

PROMPTS = {
    ("question", "answer"): "Question: {question}\nAnswer:",
    ("question", "choices"): "Question: {question}\n{choices}\nAnswer:",
    ("input", "choices"): "Question: {input}\n{choices}\nAnswer:",
    ("input", "target"): "Q: {input}\nA:",
    ("input", "answer"): "Q: {input}\nA:",
}
"""By what a row has: the question's column and the answer's. The first that fits is meant."""

_ORDER = tuple(sorted(PROMPTS, key=lambda columns: columns[1] != "choices"))
_CHOICES = "{choices}"


class Asked(NamedTuple):
    """One row in words."""

    question: str
    """The text of its question alone."""
    prompt: str
    answers: tuple[str, ...]
    """The choices, or the one right answer."""
    label: int
    solution: str
    """How an example is answered: with its rationale where it has one."""


def ask(row: Row, prompt: str) -> Asked:
    """A row in the words of a prompt; of the default one for its columns if there is none.

    Raises:
        BadRow: if the row is no question with an answer, or lacks a column of the prompt.
    """
    question, answer = _columns(row)
    words = prompt or PROMPTS[question, answer]
    if answer == "choices":
        answers = texts(row, "choices", fewest=2)
        if len(answers) > len(ascii_uppercase):
            raise BadRow(f"column 'choices' has {len(answers)}: there are letters for 26")
        right = label(row, "label", len(answers), "choices")
        lettered = [f"({name}) {one}" for name, one in zip(ascii_uppercase, answers, strict=False)]
        parts = [render(part, row) for part in words.split(_CHOICES)]
        words, gold = "\n".join(lettered).join(parts), f"({ascii_uppercase[right]})"
    else:
        gold, right = text(row, answer), 0
        words, answers = render(words, row), (gold,)
    rationale = row.columns.get("rationale")
    way = f"{rationale.strip()}\n" if isinstance(rationale, str) and rationale.strip() else ""
    return Asked(text(row, question), words, answers, right, f"{way}The answer is {gold}.")


def form_of(item: Item, form: Form) -> Form:
    """What kind of answer an item wants; `auto` is decided by its right answer."""
    if len(item.answers) > 1:
        return "letter"
    if form != "auto":
        return form
    gold = item.answers[0].strip()
    if re.fullmatch(r"\([A-Z]\)|[A-Z]", gold) and gold.strip("()") in _options(item):
        return "letter"
    if gold.casefold() in ("yes", "no", "true", "false"):
        return "yes_no"
    found = extraction.number(gold)
    return "number" if found is not None and not re.search(r"[^\W\d_]", gold) else "text"


def letters_of(item: Item) -> str:
    """The letters that an item allows: those of its choices, or `(A)`, `(B)`, … in its prompt."""
    if len(item.answers) > 1:
        return ascii_uppercase[: len(item.answers)]
    return _options(item) or ascii_uppercase


class Examples:
    """Questions with their answers, to be put before those that are asked.

    Args:
        path: A file of rows as those that are asked, or of whole prompts by task (`task`, `text`).
        folder: What the path is relative to.
        shots: So many of its rows, from the first; None is all. Whole prompts are not counted.
        prompt: The words of each, or nothing for the default ones.

    Raises:
        UsageError: if a row is no example, or there are fewer than `shots`.
    """

    def __init__(self, path: str, folder: Path, shots: int | None, prompt: str) -> None:
        rows = read_rows(path, folder)
        self._path = path
        self._asked: list[Asked] = []
        self._heads: dict[str, Row] = {}
        if {"task", "text"} <= rows[0].columns.keys():
            if shots is not None:
                raise UsageError(
                    f"{path} holds whole prompts, whose examples are not counted: leave out "
                    "'shots', or name a file of single examples."
                )
            read_items(rows, lambda row: Item(key(row), text(row, "text"), (text(row, "task"),)))
            self._heads = {str(row.columns["task"]): row for row in rows}
            return
        if shots is not None and shots > len(rows):
            raise UsageError(
                f"'shots' is {shots}, but {path} has {len(rows)} examples: ask for at most "
                f"{len(rows)}, or add to the file."
            )
        self._rows = rows[:shots]
        read_items(self._rows, lambda row: self._example(row, prompt))

    def before(self, row: Row, asked: Asked) -> str:
        """The prompt of a row with the examples in front.

        Raises:
            BadRow: if its question is among them, or there are none for its task.
        """
        if self._heads:
            return self._headed(row, asked)
        for example, said in zip(self._rows, self._asked, strict=True):
            if said.question.split() == asked.question.split() and said.answers == asked.answers:
                raise BadRow(_leak(example))
        first = [f"{said.prompt} {said.solution}" for said in self._asked]
        return "\n\n".join([*first, asked.prompt])

    def _headed(self, row: Row, asked: Asked) -> str:
        task = text(row, "task")
        if task not in self._heads:
            raise BadRow(f"there is no prompt for the task {shown(task)} in {self._path}")
        head = str(self._heads[task].columns["text"]).rstrip()
        question = re.escape(asked.question.strip())
        if re.search(rf"(?:^|:)[ \t]*{question}[ \t]*$", head, re.MULTILINE):
            raise BadRow(_leak(self._heads[task]))
        return f"{head}\n\n{asked.prompt}"

    def _example(self, row: Row, prompt: str) -> Item:
        asked = ask(row, prompt)
        self._asked.append(asked)
        return Item(key(row), asked.prompt, asked.answers, asked.label)


def _columns(row: Row) -> tuple[str, str]:
    for question, answer in _ORDER:
        if question in row.columns and answer in row.columns:
            return question, answer
    given = ", ".join(f"'{name}'" for name in sorted(row.columns))
    raise BadRow(
        f"the row has the columns {given}: a question needs 'question' and 'answer', 'question', "
        "'choices' and 'label', or 'input' and 'target'"
    )


def _options(item: Item) -> str:
    """The letters in brackets in the last block of the prompt, where the question is."""
    return "".join(dict.fromkeys(re.findall(r"\(([A-Z])\)", item.prompt.rpartition("\n\n")[2])))


def _leak(example: Row) -> str:
    return (
        f"its question is also an example, with the answer ({example.place}): take the examples "
        "from another split"
    )
