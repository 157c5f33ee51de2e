"""Teacher: something that provides signals on a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.signals import Signal, Signals


class Teacher(ABC):
    """Something that provides signals: a model, a store, a server, several teachers."""

    @property
    @abstractmethod
    def provides(self) -> Signal:
        """All that this teacher can reveal."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of token ids its distributions are over."""

    @abstractmethod
    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        """What the teacher reveals on `batch`, at its target positions in row-major order.

        Raises:
            UsageError: Something is wanted that this teacher does not provide.
        """

    def to(self, device: torch.device | str) -> None:  # noqa: B027
        """Move to a device whatever this teacher holds. Most hold nothing."""

    def after_step(self, student: nn.Module) -> None:  # noqa: B027
        """Called after each optimiser step. Only a teacher that follows the student cares."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must keep of this teacher: nothing, unless it follows the student."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Go on from what `state` gave: the same names, shapes and types."""

    def require(self, wanted: Signal) -> None:
        """Make sure that this teacher provides all that is wanted.

        Raises:
            UsageError: It does not.
        """
        if wanted not in self.provides:
            raise UsageError(
                f"{(wanted & ~self.provides).names} is wanted of {type(self).__name__}, which "
                f"provides {self.provides.names}. Use another teacher, or drop the objective that "
                "wants it."
            )
