"""Tasks: questions with known answers. `AnyTask` is the union of the kinds that a recipe can name.

Every kind is a `TaskSpec`: it reads its items, knows what guessing scores, and puts items to a
model. `running.run` does the rest, for every kind alike.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nexus.evaluation.tasks.choice import Choice
from nexus.evaluation.tasks.classification import Classification
from nexus.evaluation.tasks.cloze import Cloze
from nexus.evaluation.tasks.generation import Generation
from nexus.evaluation.tasks.lm_eval import LmEval

AnyTask = Annotated[
    Choice | Cloze | Classification | Generation | LmEval, Field(discriminator="kind")
]
"""The one list of the kinds of task."""
