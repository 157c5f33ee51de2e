"""Quantisation-aware distillation: the student in few bits learns from the student as it was.

It is one more stage behind those of the recipe, with checkpoints and lines in metrics.jsonl of its
own. It begins with what rounding has made (`student-int4`), which stays beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from nexus import hub
from nexus.cursor import Later, skipped_steps
from nexus.kernels.lm_head import prove, split_head
from nexus.looks import looks
from nexus.milestones import is_sound, source_of
from nexus.quantization.learning import learned_layers, rounded_layers
from nexus.quantization.quantize import Quantized, held_in, plan
from nexus.quantizing import SAVED, folder_of, keep
from nexus.recipe.few_bits import Quantize, QuantizeDistill
from nexus.results import QuantizedTraining
from nexus.scene import Scene, move, stage_batches
from nexus.stages import assemble, checkpoints_of, train_stage
from nexus.stopping import Stopping
from nexus.teachers.local import LocalTeacher
from nexus.training import loop
from nexus.training.prepare import prepare
from nexus.voice import Say


def is_reached(scene: Scene, say: Say) -> bool:
    """Whether the stages are done and training in few bits has begun; known to all processes.

    Then the stages are not looked at again: metrics.jsonl would be cut where they ended.

    Args:
        scene: of the run.
        say: told what is damaged.
    """
    stage = scene.recipe.few_bits_stage
    if stage is None or checkpoints_of(scene, stage, say).newest_together() is None:
        return False
    last = scene.recipe.all_stages[-1]
    with scene.parallel.alone() as alone:
        missing = alone and not is_sound(scene, scene.run.student, last, say, step=last.train.steps)
    return not scene.parallel.any(missing)


def distill_quantized(scene: Scene, stopping: Stopping, say: Say, begins_at: int | None) -> None:
    """Train the student within few bits and keep it; on all processes, once, resumably.

    Args:
        scene: whose student and its form in few bits lie on the disk; its student is let go of.
        stopping: asked after every step whether to stop there.
        say: told in a sentence what begins.
        begins_at: how long metrics.jsonl is where the stages ended; nothing if this goes on.

    Raises:
        Interrupted: if it was stopped; the same run goes on.
    """
    scheme, stage = scene.recipe.quantize, scene.recipe.few_bits_stage
    if scheme is None or scheme.distill is None or stage is None:
        return
    folder = folder_of(scene, scheme, distilled=True)
    with scene.parallel.alone() as alone:
        missing = alone and not is_sound(scene, folder, stage, say, step=stage.train.steps)
    if not scene.parallel.any(missing):
        return
    say(f"distilling {folder_of(scene, scheme).name}: {scheme.distill.parameters} learn")
    inside = _with_few_bits(scene, scheme, scheme.distill)
    number = len(scene.recipe.all_stages)
    batches = Later(stage_batches(scene, number), skipped_steps(scene.recipe, number))
    model = prepare(inside.student, stage.train)
    module = assemble(inside, stage, model, inside.teacher, say)
    settings = stage.train.model_copy(update={"parallel": "ddp"})
    work = loop.Stage(
        stage.name, module, inside.teacher, batches, settings, scene.run.path,
        begins_at or 0, resumes=begins_at is None,
        evaluate_maybe=looks(inside, module, settings, say),
    )  # fmt: skip
    train_stage(inside, work, stopping, say)
    with scene.parallel.alone() as alone:
        if alone:
            _keep(inside, scheme, scheme.distill, folder)


def _with_few_bits(scene: Scene, scheme: Quantize, distill: QuantizeDistill) -> Scene:
    """The scene in which the student as it was teaches the one in few bits."""
    whole = hub.load_model(source_of(scene, scene.run.student), scene.folder, dtype="float32")
    few = hub.load_model(source_of(scene, folder_of(scene, scheme)), scene.folder, dtype="float32")
    for model in (whole, few):
        move(model, scene.parallel.device)
    learned_layers(few, distill.parameters, whole, getattr(torch, SAVED))
    prove(split_head(few, scene.vocabulary, scene.packed))
    if (dtype := scene.recipe.teacher.dtype) not in ("auto", "float32"):
        held_in(whole, getattr(torch, dtype))
    teacher = LocalTeacher(whole, scene.vocabulary, scene.packed)
    scene.student = few  # what it was lies on the disk
    return replace(scene, teacher=teacher, student=few, sharded_teacher=None)


def _keep(scene: Scene, scheme: Quantize, distill: QuantizeDistill, folder: Path) -> None:
    few, train = scene.student, distill.train
    kept = plan(scene.teacher.pretrained, scheme)[1]
    few.config.use_cache = True
    layers = rounded_layers(few, getattr(torch, SAVED))
    training = QuantizedTraining(
        parameters=distill.parameters, steps=train.steps,
        tokens=train.steps * train.tokens_per_step, learning_rate=train.learning_rate,
    )  # fmt: skip
    facts = {"model": scene.run.student.name, "training": training.model_dump()}
    cast(nn.Module, few).eval()
    keep(scene, Quantized(few, scheme, layers, kept), folder, facts)
