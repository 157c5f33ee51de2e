"""Several teachers of one vocabulary as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.signals import Headed, Mean, Mixture, Signal, Signals
from nexus.teachers.teacher import Teacher


class Ensemble(Teacher):
    """The average of several teachers.

    Averaging probabilities is what the sum of forward divergences to all of them pulls towards;
    averaging logits suits teachers that differ by noise only. Specialists are better routed than
    averaged either way.
    """

    def __init__(
        self, teachers: Sequence[Teacher], mean: Mean = "probability",
        shares: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        """Join `teachers`.

        Args:
            teachers: at least one, over the same vocabulary.
            mean: of probabilities or of logits.
            shares: how much each counts; equal ones when absent. They are made to sum to one.

        Raises:
            UsageError: if vocabularies differ or shares are not positive.
        """
        if not teachers:
            raise UsageError("the list of teachers is empty: give at least one")
        sizes = sorted({teacher.vocabulary for teacher in teachers})
        if len(sizes) > 1:
            raise UsageError(
                f"the teachers' vocabularies have {' and '.join(map(str, sizes))} tokens: only "
                "teachers that share a tokenizer can be averaged"
            )
        given = list(shares) if shares is not None else [1.0] * len(teachers)
        if len(given) != len(teachers) or not all(0 < share < math.inf for share in given):
            raise UsageError(f"shares are {given}: give one positive number for each teacher")
        self.teachers, self._mean = list(teachers), mean
        self._shares = tuple(share / sum(given) for share in given)

    @property
    def provides(self) -> Signal:
        provided = self.teachers[0].provides
        for teacher in self.teachers:
            provided &= teacher.provides
        return provided & (Signal.DISTRIBUTION | Signal.FULL_VOCABULARY)

    @property
    def vocabulary(self) -> int:
        return self.teachers[0].vocabulary

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        self.require(wanted)
        if not wanted:
            return Signals()
        told = [teacher.signals(batch, wanted).distribution for teacher in self.teachers]
        members = tuple(one for one in told if isinstance(one, Headed))
        if len(members) < len(told):
            raise UsageError("only teachers that are models in this process can be averaged")
        return Signals(Mixture(members, self._shares, self._mean))

    def to(self, device: torch.device | str) -> None:
        for teacher in self.teachers:
            teacher.to(device)

    def after_step(self, student: nn.Module) -> None:
        for teacher in self.teachers:
            teacher.after_step(student)

    def state(self) -> Mapping[str, Tensor]:
        return {
            f"{number}.{name}": value
            for number, teacher in enumerate(self.teachers)
            for name, value in teacher.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for number, teacher in enumerate(self.teachers):
            own = f"{number}."
            its = {key: value for key, value in state.items() if key.startswith(own)}
            teacher.load_state({key.removeprefix(own): value for key, value in its.items()})
