"""Faults as they are really made, planted into the code that trains: the self-test must find each.

Loaded with `runpy.run_path`, since tests are no package.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from nexus.batch import IGNORED, Batch
from nexus.data import loader
from nexus.kernels import chunked_head, lm_head
from nexus.kernels.lm_head import Trunk
from nexus.objectives.divergences import DIVERGENCES
from nexus.objectives.output import Output
from nexus.signals import Scores, Signals, Support
from nexus.teachers.local import LocalTeacher
from nexus.training import loop
from nexus.training.module import DistillationModule

PIECES = "nexus.training.invariants.pieces"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, how it is planted, and the words of the proof that must fail."""

    name: str
    plant: Callable[[], AbstractContextManager[Any]]
    caught_by: str
    scene: str = "both"
    """Which models and terms it shows on: a name in `SCENES` of test_selftest.py."""


def collated(change: Callable[[Batch], Batch]) -> Callable[[], AbstractContextManager[Any]]:
    """Every batch that the loader makes comes out changed."""
    plain = loader.collate

    def collate(*arguments: Any) -> Batch:
        return change(plain(*arguments))

    return lambda: together(
        mock.patch.object(loader, "collate", collate), mock.patch(f"{PIECES}.collate", collate)
    )


def together(*patches: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    stack = ExitStack()
    for patch in patches:
        stack.enter_context(patch)
    return stack


def not_shifted(batch: Batch) -> Batch:
    return replace(batch, targets=batch.input_ids.where(batch.is_target, torch.tensor(IGNORED)))


def padding_counted(batch: Batch) -> Batch:
    padding = batch.documents < 0
    return replace(batch, targets=batch.targets.masked_fill(padding, 0))


def positions_run_on(batch: Batch) -> Batch:
    columns = torch.arange(batch.input_ids.shape[1]).expand(batch.input_ids.shape)
    return replace(batch, position_ids=columns)


def hidden_of_the_position_before() -> AbstractContextManager[Any]:
    plain = Trunk.hidden
    return mock.patch.object(Trunk, "hidden", lambda trunk, batch: plain(trunk, batch).roll(1, 1))


def no_square() -> AbstractContextManager[Any]:
    plain = Output.per_token

    def per_token(self: Output, *arguments: Any) -> torch.Tensor:
        return plain(self, *arguments) / self.temperature**2

    return mock.patch.object(Output, "per_token", per_token)


def mean_of_means() -> AbstractContextManager[Any]:
    plain = DistillationModule.forward

    def forward(self: Any, batch: Batch, *rest: Any) -> Any:
        losses = plain(self, batch, *rest)
        return replace(losses, total=losses.total / batch.target_count)

    def count(group: list[Batch], parallel: Any) -> torch.Tensor:
        return torch.tensor(float(len(group)))

    return together(
        mock.patch.object(DistillationModule, "forward", forward),
        mock.patch.object(loop, "count_targets", count),
    )


def left_padding_counts() -> AbstractContextManager[Any]:
    def positions(real: torch.Tensor) -> torch.Tensor:
        return torch.arange(real.shape[1]).expand(real.shape)

    return mock.patch.object(loader, "positions_in_runs", positions)


def teacher_in_training_mode() -> AbstractContextManager[Any]:
    def signals(self: LocalTeacher, batch: Batch, wanted: Any) -> Signals:
        self.model.train()
        with torch.no_grad():
            return Signals(self.speaker(batch))

    return mock.patch.object(LocalTeacher, "signals", signals)


def padding_rows_spoken() -> AbstractContextManager[Any]:
    plain = Trunk.head

    def head(trunk: Trunk) -> Any:
        whole = plain(trunk)
        return replace(whole, vocabulary=len(whole.weight))

    return mock.patch.object(Trunk, "head", head)


def alpha_swapped() -> AbstractContextManager[Any]:
    plain = DistillationModule._active

    def active(self: Any, weights: tuple[float, ...]) -> Any:
        return plain(self, weights[::-1])

    return mock.patch.object(DistillationModule, "_active", active)


def reversed_direction() -> AbstractContextManager[Any]:
    reverse = DIVERGENCES["reverse_kl"].function
    row = DIVERGENCES["forward_kl"]._replace(function=reverse)
    return mock.patch.dict(DIVERGENCES, {"forward_kl": row})


def tail_dropped() -> AbstractContextManager[Any]:
    """The teacher's eight most likely tokens, as if there were no others."""
    plain = Output.per_token

    def per_token(self: Output, student: Scores, teacher: Any, targets: Any) -> torch.Tensor:
        values, ids = teacher.log_probs().topk(8, -1)
        return plain(self.model_copy(update={"temperature": 1.0}), student,
                     Support(values, ids), targets)  # fmt: skip

    return mock.patch.object(Output, "per_token", per_token)


def head_without_its_adapter() -> AbstractContextManager[Any]:
    def rows(layer: Any) -> Any:
        return lm_head._rows(layer.get_base_layer())

    return mock.patch.object(lm_head, "_rows_with_lora", rows)


def gradient_cut_off() -> AbstractContextManager[Any]:
    """The loss is right, but no feed-forward layer learns."""
    plain = LlamaMLP.forward
    return mock.patch.object(LlamaMLP, "forward", lambda layer, x: plain(layer, x).detach())


def gradient_too_small() -> AbstractContextManager[Any]:
    plain = chunked_head._Gradients.times

    def times(self: Any, upstream: torch.Tensor) -> Any:
        return plain(self, upstream / 2)

    return mock.patch.object(chunked_head._Gradients, "times", times)


def a_term_that_is_constant() -> AbstractContextManager[Any]:
    plain = Output.per_token

    def per_token(self: Output, student: Scores, *rest: Any) -> torch.Tensor:
        return plain(self, student.detach(), *rest) + 0 * student.logits.sum(-1)

    return mock.patch.object(Output, "per_token", per_token)


def teacher_always_runs() -> AbstractContextManager[Any]:
    return mock.patch.object(
        loop, "ask", lambda teacher, batch, *_: teacher.signals(batch, teacher.provides)
    )


FAULTS = [
    Fault("targets are not shifted", collated(not_shifted), "is the next token"),
    Fault("the loss reads the position before", hidden_of_the_position_before,
          "logits that predict a token move its loss"),
    Fault("T² is missing", no_square, "'output' is T² = 4 times forward_kl"),
    Fault("a mean of means", mean_of_means, "split into micro-batches"),
    Fault("padding is counted in the loss", collated(padding_counted), "amount of padding"),
    Fault("packed documents see each other", collated(positions_run_on), "packing documents"),
    Fault("padding on the left counts as a position", left_padding_counts, "side of padding"),
    Fault("the teacher is in training mode", teacher_in_training_mode, "when it is asked twice",
          "dropout"),
    Fault("padding of the vocabulary has mass", padding_rows_spoken, "beyond the vocabulary",
          "padded vocabulary"),
    Fault("alpha is swapped", alpha_swapped, "sum of weight × term"),
    Fault("KL in the other direction", reversed_direction, "times forward_kl"),
    Fault("the tail is dropped", tail_dropped, "times forward_kl"),
    Fault("the head's adapter is ignored", head_without_its_adapter, "gets a gradient",
          "head adapter"),
    Fault("the gradient is cut off", gradient_cut_off, "gets a gradient"),
    Fault("the gradient is half of what it should be", gradient_too_small,
          "a step along the gradient"),
    Fault("a term does nothing", a_term_that_is_constant, "'output' changes the gradient"),
    Fault("alpha = 1 runs the teacher", teacher_always_runs, "alpha = 1"),
]  # fmt: skip
"""Planted in code. Two more are planted in models by the tests: shared weights, a look ahead."""
