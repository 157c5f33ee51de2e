"""Generation: a model writes, and its answer is found in what it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.data.faults import BadRow
from nexus.data.prompting import Prompter
from nexus.data.sources import Row
from nexus.errors import UsageError
from nexus.evaluation.greedy import write
from nexus.evaluation.tasks import extraction
from nexus.evaluation.tasks.asking import Examples, Form, ask, form_of, letters_of
from nexus.evaluation.tasks.reading import key, read_items, read_rows
from nexus.evaluation.tasks.task import Item, Scored, TaskSpec, sample
from nexus.spec import shown
from nexus.window import context_limit


class Generation(TaskSpec):
    """Rows with `question` and `answer`, with `question`, `choices` and `label`, or with `input`
    and `target` (or `answer`).

    `exact_match` counts how often the answer that is found in the model's text is the right one:
    numbers by their value, choices by their letter, words but for case and spacing. A text in which
    none of the asked form is found is wrong, and counted as unanswered.
    """

    kind: Literal["generation"] = "generation"
    path: str
    prompt: str = ""
    """What is asked, with `{column}`s of the row in it, and `{choices}` for its choices, lettered.
    Else the usual words for the columns that the rows have."""
    answer: Form = "auto"
    """What to look for: a number, the letter of a choice, yes or no, or words. `auto` goes by the
    right answer of each row."""
    stated: bool = False
    """An answer counts only where the text states it: "the answer is 42", `#### 42`, or in LaTeX's
    `boxed`. Else the last number of a text, for one, will do."""
    examples: str | None = None
    """A file of rows that are put before each question with their answers; or of whole prompts by
    `task`. None of its questions may be asked."""
    shots: int | None = Field(default=None, ge=1)
    """So many of the examples, from the first. Else all."""
    chat: bool = False
    """Ask through the tokenizer's chat template, all in one turn of the user's."""
    max_new_tokens: int = Field(default=256, ge=1)
    stop: tuple[str, ...] | None = None
    """Strings before which an answer ends. Else the words with which the next question would begin,
    outside of a chat."""
    batch_size: int = Field(default=8, ge=1)
    """How many answers are written at a time."""

    @model_validator(mode="after")
    def _examples_named(self) -> Generation:
        if self.shots is not None and not self.examples:
            raise ValueError("shots needs 'examples': name the file they are in")
        if self.stop is not None and "" in self.stop:
            raise ValueError("stop holds an empty string, before which every text ends: remove it")
        return self

    @property
    def headline(self) -> str:
        return "exact_match"

    @property
    def wording(self) -> Mapping[str, Any]:
        return {
            "answer": self.answer,
            "stated": self.stated,
            "chat": self.chat,
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
        }

    def items(self, folder: Path) -> Sequence[Item]:
        examples = (
            Examples(self.examples, folder, self.shots, self.prompt) if self.examples else None
        )

        def item(row: Row) -> Item:
            asked = ask(row, self.prompt)
            prompt = examples.before(row, asked) if examples else asked.prompt
            found = Item(key(row), prompt, asked.answers, asked.label)
            form = form_of(found, self.answer)
            if _answer(_gold(found), found, form, stated=False) is None:
                raise BadRow(
                    f"the right answer is {shown(found.answers[0])}, which is no {_FORMS[form]}: "
                    "correct it, or let 'answer' be another form"
                )
            return found

        return sample(read_items(read_rows(self.path, folder), item), self.limit)

    def chance(self, items: Sequence[Item]) -> float:
        return float(np.mean([self._chance(item) for item in items]))

    def score(
        self, items: Sequence[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Mapping[str, Scored]]:
        prompter = Prompter(tokenizer, chat=self.chat)
        ends = prompter.end_ids()
        places = [f"{self.path}, item '{item.key}'" for item in items]
        prompts = prompter.ids([item.prompt for item in items], places)
        self._check_room(prompts, places, model)
        order = sorted(range(len(items)), key=lambda at: -len(prompts[at]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            texts = write(
                model,
                tokenizer,
                [prompts[at] for at in batch],
                new_tokens=self.max_new_tokens,
                end_ids=ends,
                stop=self._stops(items[batch[0]]),
            )
            pairs = zip([items[at] for at in batch], texts, strict=True)
            yield {item.key: self._scored(item, text) for item, text in pairs}

    def _stops(self, item: Item) -> Sequence[str]:
        if self.stop is not None:
            return self.stop
        # The last question of the prompt begins as the next one would.
        begins = item.prompt.rpartition("\n\n")[2].split(":", 1)
        return () if self.chat or len(begins) < 2 else (f"\n{begins[0]}:",)

    def _scored(self, item: Item, text: str) -> Scored:
        form = form_of(item, self.answer)
        answer = _answer(text, item, form, stated=self.stated)
        gold = _answer(_gold(item), item, form, stated=False)
        right = answer is not None and gold is not None and _same(answer, gold, item)
        return Scored(
            {"exact_match": float(right)},
            answered=answer is not None,
            said={"text": text, "answer": None if answer is None else str(answer)},
        )

    def _chance(self, item: Item) -> float:
        match form_of(item, self.answer):
            case "letter":
                return 1 / len(letters_of(item))
            case "yes_no":
                return 0.5
        return 0.0

    def _check_room(
        self, prompts: Sequence[Sequence[int]], places: Sequence[str], model: PreTrainedModel
    ) -> None:
        room = context_limit(model.config)
        longest = max(range(len(prompts)), key=lambda at: len(prompts[at]))
        if room and len(prompts[longest]) + self.max_new_tokens > room:
            raise UsageError(
                f"{places[longest]}: its prompt has {len(prompts[longest])} tokens and "
                f"max_new_tokens is {self.max_new_tokens}, but the context of the model ends at "
                f"{room}. Ask for fewer shots or fewer tokens, or leave the item out."
            )


_FORMS = {
    "number": "number",
    "letter": "letter of a choice",
    "yes_no": "yes or no",
    "text": "single line",
}


def _gold(item: Item) -> str:
    """The right answer as a model would state it."""
    if len(item.answers) > 1:
        return f"({letters_of(item)[item.label]})"
    return item.answers[0]


def _answer(text: str, item: Item, form: Form, *, stated: bool) -> object | None:
    match form:
        case "number":
            return extraction.number(text, stated=stated)
        case "letter":
            choices = item.answers if len(item.answers) > 1 else ()
            return extraction.letter(text, letters_of(item), choices=choices, stated=stated)
        case "yes_no":
            return extraction.yes_no(text, stated=stated)
        case _:
            return extraction.free_text(text, stated=stated)


def _same(answer: object, gold: object, item: Item) -> bool:
    if isinstance(answer, Fraction) and isinstance(gold, Fraction):
        return extraction.same_number(answer, gold)
    if isinstance(answer, str) and isinstance(gold, str):
        if len(item.answers) > 1:  # the same choice may be there twice
            letters = letters_of(item)
            return item.answers[letters.index(answer)] == item.answers[letters.index(gold)]
        return extraction.same_words(answer, gold)
    return answer == gold
