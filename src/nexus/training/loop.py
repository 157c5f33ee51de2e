"""train(): one stage of training, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nexus.batch import Batch
from nexus.errors import Interrupted, NexusError
from nexus.memory import peak_memory_gib
from nexus.schedule import learning_rate_share
from nexus.signals import Signals
from nexus.teachers.teacher import Teacher
from nexus.training.checkpoint import Checkpoints, Notice, unheard
from nexus.training.metrics import Metrics, Tracker
from nexus.training.module import DistillationModule, StepLosses
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.progress import View
from nexus.training.settings import TrainSpec
from nexus.training.snapshot import Snapshot
from nexus.training.whole import WholeTensors


class BatchSource(Protocol):
    """Where batches come from: step k's micro-batches are a pure function of the recipe and k."""

    def take(self, step: int) -> list[Batch]: ...


@dataclass(frozen=True)
class Stage:
    """What one stage of training consists of."""

    name: str
    module: DistillationModule
    teacher: Teacher | None
    batches: BatchSource
    settings: TrainSpec
    folder: Path
    """The run directory."""
    metrics_bytes: int = 0
    """How long metrics.jsonl is where the stage begins."""
    resumes: bool = False
    """Whether it has a checkpoint, without which the stage before would have to be trained."""


def train(
    stage: Stage, parallel: Parallel, trackers: tuple[Tracker, ...] = (),
    *, stopping: Callable[[], bool] = lambda: False, quiet: bool = False,
    notice: Notice = unheard,
) -> int:  # fmt: skip
    """Train the stage's student to its last step, from its newest good checkpoint if there is one.

    Returns:
        How long metrics.jsonl is at the end: where the next stage begins.

    Raises:
        Interrupted: if `stopping` said so; a checkpoint was written, the same call continues.
        NexusError: if a loss or gradient is not finite; earlier checkpoints are intact.
    """
    settings, module = stage.settings, stage.module
    optimizer = adamw(module, settings.learning_rate, settings.betas, settings.weight_decay)
    snapshot = Snapshot(
        stage.name, WholeTensors(module, optimizer, parallel), stage.teacher, parallel,
        settings.tokens_per_step, metrics_bytes=stage.metrics_bytes,
    )  # fmt: skip
    folder = stage.folder / "checkpoints" / stage.name
    checkpoints = Checkpoints(folder, settings.keep_checkpoints, parallel, notice)
    checkpoints.open()
    if checkpoints.restore(snapshot) is None and stage.resumes:
        raise Interrupted(f"no checkpoint of stage '{stage.name}' is whole: it begins again")
    start = snapshot.step
    wrapped = parallel.wrap(module.train())
    log = Metrics(
        stage.folder, snapshot.metrics_bytes, stage.name, trackers, writes=parallel.is_main
    )
    with log, View(stage.name, start, settings.steps, quiet=quiet or not parallel.is_main) as view:
        for step in range(start, settings.steps):
            began = time.monotonic()
            values = take_step(stage, wrapped, optimizer, step, parallel)
            seconds = time.monotonic() - began
            values |= {
                "tokens_per_second": settings.tokens_per_step / seconds,
                "peak_memory_gib": peak_memory_gib(parallel.device),
                "seconds": seconds,
            }
            log.write(step + 1, values)
            view.show(step + 1, values)
            last, stop = step + 1 == settings.steps, parallel.any(stopping())
            if stop or last or (step + 1) % settings.save_every == 0:
                snapshot.step, snapshot.metrics_bytes = step + 1, log.flush()
                checkpoints.save(snapshot)
            if stop and not last:
                raise Interrupted(f"stopped after step {step + 1} of {settings.steps}")
        return log.flush()


def take_step(
    stage: Stage,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    parallel: Parallel,
) -> dict[str, Any]:
    """One optimiser step: the heart of every method. Returns what there is to say of it."""
    settings, module = stage.settings, stage.module
    set_learning_rate(optimizer, settings, step)
    weights = module.objectives.weights(step, settings.steps)
    group = [batch.to(parallel.device) for batch in stage.batches.take(step)]
    tokens = count_targets(group, parallel)
    sums = []
    for number, batch in enumerate(group, start=1):
        with parallel.hold_gradients(wrapped, last=number == len(group)):
            signals = ask(stage.teacher, batch, module, weights)
            with settings.autocast(parallel.device):
                losses = wrapped(batch, signals, weights)
            # DDP averages over the ranks, and this is to be a sum.
            (losses.total * (parallel.world / tokens)).backward()
        sums.append(losses)
    norm = nn.utils.clip_grad_norm_(module.parameters(), settings.clip_gradient)
    values = _summary(sums, tokens, norm, parallel)
    refuse_nonsense(values, step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if stage.teacher is not None:
        stage.teacher.after_step(module.student)
    return values | {"learning_rate": optimizer.param_groups[0]["lr"]}


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainSpec, step: int) -> None:
    share = learning_rate_share(
        settings.schedule,
        step,
        settings.steps,
        warmup_steps=settings.warmup_steps,
        decay_share=settings.decay_share,
        floor=settings.final_share,
    )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * share


def count_targets(group: list[Batch], parallel: Parallel) -> Tensor:
    """The step's one normaliser: its target tokens over micro-batches and ranks, at least 1."""
    own = torch.stack([batch.target_count for batch in group]).sum().float()
    return parallel.total(own).clamp_min(1)


def ask(
    teacher: Teacher | None, batch: Batch, module: DistillationModule, weights: tuple[float, ...]
) -> Signals:
    """What the teacher says; nothing, and at no cost, if no objective of this step listens."""
    wanted = module.wanted(weights)
    return teacher.signals(batch, wanted) if teacher is not None and wanted else Signals()


def refuse_nonsense(values: dict[str, Any], step: int) -> None:
    """Stop before a loss or gradient that is not a finite number reaches the weights."""
    loss, norm = values["loss"], values["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NexusError(
            f"loss {loss} with gradient norm {norm} at step {step + 1}: training stopped before "
            "the weights were touched, and earlier checkpoints are intact. Lower "
            "train.learning_rate, or look at the rows of this step"
        )


def _summary(
    sums: list[StepLosses], tokens: Tensor, norm: Tensor, parallel: Parallel
) -> dict[str, Any]:
    """Means per target token over the whole step. The one place where the step is waited for."""
    terms, observed = sums[0].terms, sums[0].observed
    columns = [torch.stack([losses.total.detach() for losses in sums]).sum()]
    columns += [torch.stack([losses.terms[name] for losses in sums]).sum() for name in terms]
    columns += [torch.stack([losses.observed[name] for losses in sums]).sum() for name in observed]
    means = parallel.total(torch.stack(columns)) / tokens
    numbers = torch.cat([means, tokens.reshape(1), norm.detach().reshape(1)]).tolist()
    return {
        "loss": numbers[0],
        "terms": dict(zip(terms, numbers[1:], strict=False)),
        **dict(zip(observed, numbers[1 + len(terms) :], strict=False)),
        "targets": int(numbers[-2]),
        "gradient_norm": numbers[-1],
    }
