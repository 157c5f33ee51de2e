"""A whole step of distillation, as each implementation takes it.

All see the same tokens and train fp32 weights under bf16 autocast with AdamW at the same rate and
the same clipping, unless their title says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from losses import ALPHA, TEMPERATURE, plain_loss
from material import half, load_teacher, load_text_tokenizer, token_rows
from resident import peak_mib, settle
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from turns import Clock, Facts

from nexus.batch import IGNORED, Batch
from nexus.kernels.decoder import compile_layers
from nexus.kernels.lm_head import head_rows
from nexus.objectives.output import Output
from nexus.objectives.task import Task
from nexus.objectives.weighted_sum import WeightedSum
from nexus.teachers.local import LocalTeacher
from nexus.training.loop import Stage, take_step
from nexus.training.module import DistillationModule
from nexus.training.optimizer import adamw
from nexus.training.parallel import Parallel
from nexus.training.prepare import prepare
from nexus.training.settings import TrainSpec

LEARNING_RATE, BETAS, CLIP = 2.0e-5, (0.9, 0.999), 1.0


@dataclass(frozen=True)
class Plan:
    """What every implementation is given: `steps` batches of text with a prompt in each row."""

    folder: Path
    """Holds the teacher."""
    steps: int
    rows: int = 4
    length: int = 512
    prompt: int = 128
    """Tokens at the beginning of each row that no loss is computed on."""

    def batches(self) -> Tensor:
        return token_rows(self.folder, self.steps, self.rows, self.length)

    def shifted(self, ids: Tensor) -> Tensor:
        """What each position must predict: the next token, if that is no part of the prompt."""
        targets = functional.pad(ids[..., 1:], (0, 1), value=IGNORED)
        targets[..., : self.prompt - 1] = IGNORED
        return targets

    def batch(self, ids: Tensor) -> Batch:
        positions = torch.arange(self.length).expand_as(ids)
        nothing = torch.zeros_like(ids)
        return Batch(ids, self.shifted(ids), positions, nothing, nothing, nothing)


@dataclass(frozen=True)
class Variant:
    """An implementation of the step."""

    title: str
    play: Callable[..., Facts]
    package: str = ""
    options: tuple[bool, ...] = ()
    memory_settings: bool = False
    """Whether it starts with what `nexus distill` starts with."""


def play_nexus(clock: Clock, plan: Plan, compiled: bool) -> Facts:
    """`take_step` on a stage, as a recipe's run comes to it."""
    teacher, student = _models(plan)
    settings = TrainSpec(
        steps=plan.steps, tokens_per_step=plan.rows * plan.length, micro_batch_rows=plan.rows,
        learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0, betas=BETAS,
        weight_decay=0.0, clip_gradient=CLIP, compile=compiled,
    )  # fmt: skip
    objectives = (Task(weight=ALPHA), Output(weight=1 - ALPHA, temperature=TEMPERATURE))
    module = DistillationModule(
        prepare(student, settings), WeightedSum(objectives), head_rows(teacher), fused=compiled
    )
    if compiled:
        compile_layers(teacher)
    source = _Source([[plan.batch(ids)] for ids in plan.batches()])
    stage = Stage("", module, LocalTeacher(teacher), source, settings, plan.folder)
    optimizer = adamw(module, settings.learning_rate, settings.betas, settings.weight_decay)
    module.train()
    step = lambda number: take_step(stage, module, optimizer, number, Parallel())["loss"]  # noqa: E731
    return _timed(clock, plan.steps, step)


def play_plain(clock: Clock, plan: Plan, tuned: bool) -> Facts:
    """A loop as it is written by hand; `tuned` with the fused optimiser and compiled layers."""
    teacher, student = _models(plan)
    teacher.requires_grad_(False)
    student.train()
    if tuned:
        compile_layers(teacher)
        compile_layers(student)
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=tuned or None
    )
    batches = plan.batches()

    def step(number: int) -> float:
        ids = batches[number]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                theirs = teacher(input_ids=ids).logits
            logits = student(input_ids=ids).logits
            targets = plan.shifted(ids).flatten()
            loss = plain_loss(logits.flatten(0, 1), theirs.flatten(0, 1), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return _timed(clock, plan.steps, step)


def play_trl(clock: Clock, plan: Plan, autocast: bool) -> Facts:
    """TRL's GKD trainer on stored text. Its loss is forward KL at T = 1, without a task loss."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end()

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = ids.clone()
        labels[:, : plan.prompt] = IGNORED
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    teacher, student = _models(plan)
    if not autocast:
        student.bfloat16()
    settings = GKDConfig(
        output_dir=str(plan.folder / "trl"), max_steps=plan.steps, bf16=autocast, use_cpu=True,
        per_device_train_batch_size=plan.rows, max_length=plan.length, lmbda=0.0, beta=0.0,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", adam_beta2=BETAS[1],
        weight_decay=0.0, max_grad_norm=CLIP, activation_checkpointing=False, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = GKDTrainer(
        student, teacher, settings, data_collator=collate, callbacks=[Turns()],
        train_dataset=Dataset.from_dict({"input_ids": plan.batches().flatten(0, 1).tolist()}),
        processing_class=load_text_tokenizer(plan.folder),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    before = settle()
    loss = trainer.train().training_loss
    return {"models_mib": before, "memory_mib": peak_mib() - before, "mean_loss": loss}


def _timed(clock: Clock, steps: int, step: Callable[[int], float]) -> Facts:
    before = settle()
    losses = []
    for number in range(steps):
        clock.begin()
        losses.append(step(number))
        clock.end(loss=losses[-1])
    return {"models_mib": before, "memory_mib": peak_mib() - before, "losses": losses}


def _models(plan: Plan) -> tuple[PreTrainedModel, PreTrainedModel]:
    teacher = load_teacher(plan.folder)
    return teacher, half(teacher)


@dataclass(frozen=True)
class _Source:
    batches: list[list[Batch]]

    def take(self, step: int) -> list[Batch]:
        return self.batches[step]


VARIANTS = {
    "nexus": Variant("**Nexus**", play_nexus, options=(True,), memory_settings=True),
    "nexus_bare": Variant("Nexus, without memory settings", play_nexus, options=(True,)),
    "nexus_eager": Variant(
        "Nexus, not compiled", play_nexus, options=(False,), memory_settings=True
    ),
    "plain": Variant("plain PyTorch loop", play_plain, options=(False,)),
    "plain_tuned": Variant(
        "plain PyTorch loop, fused AdamW, compiled layers", play_plain, options=(True,)
    ),
    "trl": Variant("TRL GKDTrainer (KL alone)", play_trl, "trl", (True,)),
    "trl_bf16": Variant("TRL GKDTrainer (KL alone), weights in bf16", play_trl, "trl", (False,)),
}
"""All that are compared, in the order of the table."""
