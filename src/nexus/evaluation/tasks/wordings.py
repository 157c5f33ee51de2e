"""The usual words in which well-known tasks are put, by the name of the task.

They are those of lm-evaluation-harness where it has the task, but for sentiment: with its words a
small model scores what guessing does. Those of sentiment and of TREC were chosen from three each by
a model of 135 million parameters on 100 rows of the training split, never on rows that are scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Wording:
    """How a task is put, unless the recipe says otherwise."""

    prompt: str
    """With the columns of a row in braces."""
    metric: Literal["accuracy", "accuracy_norm"] = "accuracy"
    words: dict[str, str] = field(default_factory=dict)
    """By `label_text`, the word that stands for it."""


QUESTION = Wording("Question: {question}\nAnswer:")
"""Of a multiple choice that is not known by name."""

_CONTINUED = Wording("{question}", metric="accuracy_norm")
_SENTIMENT = Wording("Review: {text}\nSentiment:")

_KNOWN = {
    "hellaswag": _CONTINUED,
    "openbookqa": _CONTINUED,
    "boolq_closed": Wording("Question: {question}?\nAnswer:"),
    "sst2": _SENTIMENT,
    "mr": _SENTIMENT,
    "cola": Wording(
        "{text}\nQuestion: Does this sentence make sense?\nAnswer:",
        words={"unacceptable": "no", "acceptable": "yes"},
    ),
    "rte": Wording(
        "{text}\nQuestion: {text2} True or False?\nAnswer:",
        words={"entailment": "True", "not_entailment": "False"},
    ),
    "trec": Wording(
        "Question: {text}\nCategory:",
        words={
            "ABBR": "abbreviation",
            "DESC": "description",
            "ENTY": "entity",
            "HUM": "person",
            "LOC": "location",
            "NUM": "number",
        },
    ),
}


def wording_of(name: str) -> Wording:
    """That of a task by its name, or that of a question with an answer."""
    return _KNOWN.get(name, QUESTION)


def is_known(name: str) -> bool:
    return name in _KNOWN
