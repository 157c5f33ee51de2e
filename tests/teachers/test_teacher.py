"""What every teacher has in common."""

from __future__ import annotations

import pytest
from torch import nn

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.signals import Signal, Signals
from nexus.teachers.teacher import Teacher


class Writer(Teacher):
    """A teacher that can only write."""

    provides = Signal.TEXT | Signal.TOKEN_LOGPROBS
    vocabulary = 7

    def signals(self, batch: Batch, wanted: Signal) -> Signals:
        self.require(wanted)
        return Signals()


def test_a_teacher_gives_what_it_provides() -> None:
    teacher = Writer()
    for wanted in (Signal.NONE, Signal.TEXT, Signal.TEXT | Signal.TOKEN_LOGPROBS):
        teacher.require(wanted)


def test_a_teacher_says_what_it_lacks() -> None:
    with pytest.raises(UsageError, match="HIDDEN is wanted of Writer, which provides TOKEN.*TEXT"):
        Writer().require(Signal.HIDDEN | Signal.TEXT)


def test_most_teachers_do_not_follow_the_student() -> None:
    Writer().after_step(nn.Linear(1, 1))
    Writer().to("cpu")


def test_a_teacher_without_signals_is_none() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Teacher()  # type: ignore[abstract]
