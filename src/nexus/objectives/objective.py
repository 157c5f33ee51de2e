"""What an objective is: a frozen part of the recipe that turns signals into losses per token."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from nexus.batch import Targets
from nexus.schedule import Weight
from nexus.signals import Scores, Signal, Support
from nexus.spec import Spec


class Objective(Spec, ABC):
    """One term of the loss. The total is the sum of weight times objective over all terms."""

    kind: str
    weight: Weight = 1.0
    """A number, or a schedule: a function of the step."""
    name: str = ""
    """What the term is called in logs and reports: its kind unless two terms share one."""

    @property
    def label(self) -> str:
        return self.name or self.kind

    @property
    @abstractmethod
    def needs(self) -> Signal:
        """What the teacher must provide. `Signal.NONE`: the teacher need not even run."""


class TokenObjective(Objective, ABC):
    """An objective that sees the logits of each target position, and nothing of other positions."""

    @abstractmethod
    def per_token(
        self, student: Scores, teacher: Scores | Support | None, targets: Targets
    ) -> Float[Tensor, " n"]:
        """The loss at each target position, in nats, in fp32.

        Args:
            student: its distribution over the real vocabulary.
            teacher: the teacher's at the same positions; None if nothing is needed.
            targets: the tokens to predict, and the part and task each belongs to.
        """

    @property
    @abstractmethod
    def temperatures(self) -> frozenset[float]:
        """The temperatures `per_token` softens by, so that normalisers can be computed once."""
