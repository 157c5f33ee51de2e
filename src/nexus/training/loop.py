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
from nexus.training.evidence import Passed, bad_terms, keep, strict
from nexus.training.guard import Guard, largest
from nexus.training.metrics import Metrics, Tracker
from nexus.training.module import DistillationModule, StepLosses
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.progress import View
from nexus.training.settings import TrainSpec
from nexus.training.sharded import StageTensors
from nexus.training.snapshot import Snapshot


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
    evaluate_maybe: Callable[[int], dict[str, float]] = lambda step: {}
    """What is to be noted of a look at held-out text after this step, if one is due."""


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
        Diverged: if losses or gradients are not finite, and going back once did not help.
    """
    settings, module = stage.settings, stage.module
    optimizer = adamw(module, settings.learning_rate, settings.betas, settings.weight_decay)
    snapshot = Snapshot(
        stage.name, StageTensors(module, optimizer, parallel), stage.teacher, parallel,
        settings.tokens_per_step, metrics_bytes=stage.metrics_bytes,
    )  # fmt: skip
    folder = stage.folder / "checkpoints" / stage.name
    checkpoints = Checkpoints(
        folder, settings.keep_checkpoints, parallel, notice, every=settings.save_every
    )
    guard = Guard(stage.name, settings, parallel, notice)
    begins = _resume(stage, checkpoints, snapshot, guard)
    wrapped = parallel.wrap(module.train())
    log = Metrics(
        stage.folder, snapshot.metrics_bytes, stage.name, trackers, writes=parallel.is_main
    )
    if log.lost:
        what = f"metrics.jsonl is {log.lost:,} bytes shorter than at the checkpoint"
        notice(snapshot.step, what, "Its curves have a gap, which the student knows nothing of")
    step, quiet = snapshot.step, quiet or not parallel.is_main
    with log, View(stage.name, step, settings.steps, quiet=quiet) as view:
        if begins:
            checkpoints.save(snapshot)  # or there would be nothing to go back to
        while step < settings.steps:
            values = _timed(stage, wrapped, optimizer, step, parallel, guard.rate)
            step += 1
            values |= stage.evaluate_maybe(step)
            log.write(step, strict(values))
            view.show(step, values)
            stop = parallel.any(stopping())
            due = stop or step == settings.steps or step % settings.save_every == 0
            if guard.has_lost(step, values) or (due and not guard.passes(module, step)):
                guard.lower_rate(step)
                step = _go_back(checkpoints, snapshot, log, guard)
            elif due and (step == settings.steps or not guard.bad_steps):
                snapshot.step, snapshot.metrics_bytes = step, log.flush()
                checkpoints.save(snapshot)
            if stop and step < settings.steps:
                done = f"stopped after step {step} of {settings.steps}"
                raise Interrupted(f"{done}; the checkpoint is of step {snapshot.step}")
        return log.flush()


def take_step(
    stage: Stage,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    parallel: Parallel,
    rate: float = 1.0,
) -> dict[str, Any]:
    """One optimiser step: the heart of every method. Returns what there is to say of it.

    Where a number is not finite no weight is moved, and the values are marked as `skipped`.
    """
    settings, module = stage.settings, stage.module
    set_learning_rate(optimizer, settings, step, rate)
    weights = module.objectives.weights(step, settings.steps)
    group = [batch.to(parallel.device) for batch in stage.batches.take(step)]
    tokens = count_targets(group, parallel)

    def through(batch: Batch) -> Passed:
        signals = ask(stage.teacher, batch, module, weights)
        with settings.autocast(parallel.device):
            losses: StepLosses = wrapped(batch, signals, weights)
        told = signals.distribution
        return Passed(losses, torch.zeros_like(losses.total) if told is None else largest(told))

    passes = []
    for number, batch in enumerate(group, start=1):
        with parallel.hold_gradients(wrapped, last=number == len(group)):
            passes.append(through(batch))
            # DDP averages over the ranks, and this is to be a sum.
            (passes[-1].losses.total * (parallel.world / tokens)).backward()  # type: ignore[no-untyped-call]
    norm = parallel.clip(module, settings.clip_gradient)
    values = _summary(passes, tokens, norm, parallel)
    if not bad_terms(values):
        optimizer.step()
        if stage.teacher is not None:
            stage.teacher.after_step(module.student)
    optimizer.zero_grad(set_to_none=True)
    if bad_terms(values):
        evidence = keep(stage.folder, stage.name, step + 1, group, values, through, parallel)
        values |= {"skipped": True, "why": str(evidence)}
    return values | {"learning_rate": optimizer.param_groups[0]["lr"]}


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: TrainSpec, step: int, rate: float = 1.0
) -> None:
    share = learning_rate_share(
        settings.schedule,
        step,
        settings.steps,
        warmup_steps=settings.warmup_steps,
        decay_share=settings.decay_share,
        floor=settings.final_share,
    )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * share * rate


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


def _resume(stage: Stage, checkpoints: Checkpoints, snapshot: Snapshot, guard: Guard) -> bool:
    """Put the newest good checkpoint in place; whether the stage begins, for there is none."""
    checkpoints.open()
    begins = checkpoints.restore(snapshot) is None
    if begins and stage.resumes:
        raise NexusError(
            f"no checkpoint of stage '{stage.name}' is good, and the stages before it are to be "
            "trained again: run the same command again"
        )
    guard.restore(snapshot.extra)
    return begins


def _go_back(checkpoints: Checkpoints, snapshot: Snapshot, log: Metrics, guard: Guard) -> int:
    """To the last checkpoint that no stop has made, which knows of it from now on; its step."""
    if checkpoints.restore(snapshot, regular=True) is None:
        raise NexusError(
            f"training has to go back, and no checkpoint in {checkpoints.folder} is good: run the "
            "same command again, which begins anew"
        )
    log.cut(snapshot.metrics_bytes)
    snapshot.extra = guard.state
    checkpoints.save(snapshot)
    return snapshot.step


def _timed(
    stage: Stage,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    parallel: Parallel,
    rate: float,
) -> dict[str, Any]:
    """A step, with what it took."""
    began = time.monotonic()
    values = take_step(stage, wrapped, optimizer, step, parallel, rate)
    seconds = time.monotonic() - began
    return values | {
        "tokens_per_second": stage.settings.tokens_per_step / seconds,
        "peak_memory_gib": peak_memory_gib(parallel.device),
        "seconds": seconds,
    }


def _summary(
    passes: list[Passed], tokens: Tensor, norm: Tensor, parallel: Parallel
) -> dict[str, Any]:
    """Means per target token over the whole step. The one place where the step is waited for."""
    sums = [passed.losses for passed in passes]
    terms, observed = sums[0].terms, sums[0].observed
    columns = [torch.stack([losses.total.detach() for losses in sums]).sum()]
    columns += [torch.stack([losses.terms[name] for losses in sums]).sum() for name in terms]
    columns += [torch.stack([losses.observed[name] for losses in sums]).sum() for name in observed]
    columns += [torch.stack([passed.teacher for passed in passes]).sum()]
    means = parallel.total(torch.stack(columns)) / tokens
    numbers = torch.cat([means, tokens.reshape(1), norm.detach().reshape(1)]).tolist()
    values = {
        "loss": numbers[0],
        "terms": dict(zip(terms, numbers[1:], strict=False)),
        **dict(zip(observed, numbers[1 + len(terms) :], strict=False)),
        "targets": int(numbers[-2]),
        "gradient_norm": numbers[-1],
    }
    return values if math.isfinite(numbers[-3]) else {"teacher": numbers[-3], **values}
