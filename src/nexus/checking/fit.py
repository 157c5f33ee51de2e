"""Whether a run fits in memory and on disk, told from configurations before weights are loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from nexus.disk import existing
from nexus.errors import UsageError
from nexus.hub import Dtype
from nexus.memory import GIB, available_bytes, held_bytes
from nexus.planning.hollow import Hollow
from nexus.planning.memory import COMPILER_BYTES, Forecast, Work, forecast, width_of
from nexus.proofs import Proof
from nexus.pruning.depth import smaller_config
from nexus.pruning.target import Types
from nexus.quantization.quantize import plan
from nexus.recipe.schema import Recipe
from nexus.scene import Models, configurations
from nexus.students import AnyStudent
from nexus.students.layers import Layers
from nexus.students.pruned import Pruned
from nexus.training.parallel import Parallel
from nexus.training.prepare import COMPILE_FROM, can_compile
from nexus.training.settings import TrainSpec
from nexus.training.shortage import LAST_RESORT, advice
from nexus.training.space import (
    MOMENTS,
    checkpoint_bytes,
    most_bytes,
    weight_bytes,
    written_bytes,
)

MARGIN = 0.25
"""By how much of itself a forecast may be too high."""

SHORTFALL = 1 / 3
"""By how much of itself it may be too low: the worst that was measured on small trainings."""

SPREAD_SHARE = 0.6
"""Of a GPU, that weights, gradients and moments may take before `auto` spreads them."""

NAME_MEMORY = "the run fits in memory"
NAME_DISK = "checkpoints and student fit on the disk"


def fit(recipe: Recipe, folder: Path, parallel: Parallel, models: Models | None) -> list[Proof]:
    """Memory and disk, from configurations alone.

    Args:
        recipe: What is to run.
        folder: What its paths are relative to.
        parallel: This process among the others.
        models: Teacher and student, if they are already in memory.

    Raises:
        UsageError: A model is not there, or has no such layers.
    """
    configs = configurations(recipe, folder, models)
    place = folder / recipe.output
    if not all(map(Hollow.can_be, configs)):
        why = "a model runs code of its own, so that its sizes are known only when it is loaded"
        if models is not None and models.student is not None:
            students = planned_students(recipe, configs, models.student)
            return [_unknown(NAME_MEMORY, why), _disk(recipe, students, place)]
        return [_unknown(name, why) for name in (NAME_MEMORY, NAME_DISK)]
    first = None if models is None else models.student
    students = planned_students(recipe, configs, first)
    return [_memory(recipe, configs, parallel, models), _disk(recipe, students, place)]


def planned_students(
    recipe: Recipe, configs: tuple[PreTrainedConfig, ...], first: nn.Module | None = None
) -> list[nn.Module]:
    """The student of each stage, without its weights where it is not there yet.

    Args:
        recipe: What is to run.
        configs: Of the teacher, and of a student that is not cut out of it.
        first: The student of the first stage, if it is there. All are taken to be like it where
            no size can be told from a configuration.

    Raises:
        UsageError: A student cannot be cut to what is asked; the stage is named.
    """
    stages = recipe.all_stages
    if first is not None and not (recipe.cascades and all(map(Hollow.can_be, configs))):
        return [first for _ in stages]
    students: list[nn.Module] = []
    for number, stage in enumerate(stages):
        same = number > 0 and stage.student is None
        given = first if number == 0 else None
        students.append(
            students[-1] if same else given or student_shapes(recipe, configs, number=number).model
        )
    return students


def student_shapes(
    recipe: Recipe,
    configs: tuple[PreTrainedConfig, ...],
    dtype: torch.dtype = torch.float32,
    number: int = 0,
) -> Hollow:
    """The student of a stage without its weights. Of one made of layers the largest are taken,
    until they are known."""
    if len(configs) > 1:
        config, shapes = configs[-1], Hollow(configs[-1], dtype)
    else:
        held = teacher_type(recipe.teacher.dtype, configs[0])
        config, shapes = _cut(recipe.student, configs[0], dtype, held, recipe.saved_in(0))
    for at, stage in enumerate(recipe.all_stages[1 : number + 1], 1):
        if stage.student is not None:
            held = recipe.saved_in(at - 1)
            try:
                config, shapes = _cut(stage.student, config, dtype, held, recipe.saved_in(at))
            except UsageError as error:
                raise UsageError(f"stage '{stage.name}': {error}") from None
    return shapes


def _cut(
    student: AnyStudent,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    held: torch.dtype,
    saved: torch.dtype,
) -> tuple[PreTrainedConfig, Hollow]:
    """A configuration and the shapes of what is cut out of the model of another.

    Of a budget of bytes they are told by what that is held and the student is saved in.
    """
    match student:
        case Pruned():
            if student.vocabulary is not None:
                student = student.of_whole(Hollow(config, held).model)
                config = student.narrow_config(config)
            smaller = student.config(Hollow(config, held).model, Types(saved=saved))
            return smaller, Hollow(smaller, dtype)
        case Layers():
            kept = student.pick if isinstance(student.pick, tuple) else student.count
            shapes = Hollow(config, dtype, layers=kept)
            count = shapes.model.config.get_text_config().num_hidden_layers
            total = config.get_text_config().num_hidden_layers
            return smaller_config(config, tuple(range(count)), total), shapes
    return config, Hollow(config, dtype)


def forecast_of(
    recipe: Recipe, number: int, configs: tuple[PreTrainedConfig, ...], parallel: Parallel
) -> Forecast:
    """What a stage will take at most, this program itself apart."""
    stage = recipe.all_training[number]
    train = stage.train
    student = student_shapes(recipe, configs, train.weights, number)
    teacher = Hollow(configs[0])
    width = teacher_width(recipe.teacher.dtype, configs[0])
    rows = train.tokens_per_step // recipe.data.sequence_length // parallel.world
    large = student.parameters >= COMPILE_FROM and can_compile(parallel.device)
    work = Work(
        rows=min(train.micro_batch_rows, max(1, rows)),
        length=recipe.data.sequence_length,
        micro_batches=-(-max(1, rows) // train.micro_batch_rows),
        precision=train.precision,
        gradient_checkpointing=train.gradient_checkpointing,
        fused=large if train.compile == "auto" else train.compile,
        lora_rank=train.lora.rank if train.lora else None,
        on_host=parallel.device.type == "cpu",
    )
    whole = forecast(teacher, width, student, work)
    if _is_spread(train, whole, parallel):
        whole = forecast(teacher, width, student, replace(work, shares=parallel.world))
    if stage.teacher == "original":
        return whole
    beside = student_shapes(recipe, configs, number=number - 1).parameters * width
    return replace(whole, parts={**whole.parts, "teacher": whole.parts["teacher"] + beside})


def teacher_width(dtype: Dtype, config: PreTrainedConfig) -> int:
    """Bytes of a weight of the teacher; under `auto`, of the type that it was saved in."""
    return width_of(teacher_type(dtype, config))


def teacher_type(dtype: Dtype, config: PreTrainedConfig) -> torch.dtype:
    """What the teacher is held in; under `auto`, the type that it was saved in."""
    held = getattr(torch, dtype) if dtype != "auto" else config.dtype
    return held if isinstance(held, torch.dtype) else torch.float32


def _is_spread(train: TrainSpec, whole: Forecast, parallel: Parallel) -> bool:
    if parallel.world == 1 or train.parallel == "ddp":
        return False
    if train.parallel == "fsdp2":
        return True
    if parallel.device.type != "cuda":
        return False
    room = torch.cuda.get_device_properties(parallel.device).total_memory
    return whole.fixed > SPREAD_SHARE * room


def _memory(
    recipe: Recipe, configs: tuple[PreTrainedConfig, ...], parallel: Parallel, models: Models | None
) -> Proof:
    told = [
        (forecast_of(recipe, number, configs, parallel), stage.train)
        for number, stage in enumerate(recipe.all_training)
    ]
    most, train = max(told, key=lambda pair: pair[0].total)
    here = held_bytes(parallel.device)
    own = 0 if parallel.device.type == "cuda" else here
    own += COMPILER_BYTES if train.compile == "auto" or train.compile else 0
    at_hand = available_bytes(parallel.device) // _sharing(parallel)
    there = 0 if models is None else sum(map(_bytes, models.given))
    return judged(most, own, here, there, at_hand, advised(most, at_hand, train, recipe))


def judged(most: Forecast, own: int, here: int, there: int, at_hand: int, remedy: str) -> Proof:
    """What a forecast means for the memory there is.

    Args:
        most: What models and training take.
        own: What the program itself takes, compiler included.
        here: How much is held already.
        there: How much of the models.
        at_hand: What can still be had.
        remedy: What to do if it is too little.
    """
    total, room = most.total + own - there, at_hand + here
    parts = ", ".join(
        f"{name} {value / GIB:.2f}" for name, value in most.parts.items() if value >= GIB / 200
    )
    detail = (
        f"about {total / GIB:.2f} GiB at the most of the {room / GIB:.2f} GiB that can be had "
        f"({parts}, this program {own / GIB:.2f})"
    )
    proof = Proof(
        group="fit", name=NAME_MEMORY, outcome="proved", detail=detail, value=total / GIB,
        limit=room / GIB,
    )  # fmt: skip
    if total * (1 - MARGIN) > room:
        return proof.model_copy(update={"outcome": "failed", "remedy": remedy})
    if total * (1 + SHORTFALL) > room:
        update = {"outcome": "doubtful", "remedy": remedy}
        return proof.model_copy(update=update)
    if not most.whole:
        detail += "; what is kept for the backward pass cannot be foreseen for this architecture"
        remedy = "Try a few steps, and look at peak_memory_gib in metrics.jsonl"
        update = {"outcome": "doubtful", "remedy": remedy, "detail": detail}
        return proof.model_copy(update=update)
    return proof


def advised(most: Forecast, at_hand: int, train: TrainSpec, recipe: Recipe) -> str:
    """The least costly change that can be enough."""
    if most.fixed > at_hand:
        lora = "" if train.lora else "Train an adapter (train.lora: {rank: 16}). Or take"
        return f"{lora} {LAST_RESORT[5:] if lora else LAST_RESORT}".strip()
    return advice(train, recipe.data.sequence_length)


def _sharing(parallel: Parallel) -> int:
    """How many processes share one memory: all of them on a machine without GPUs."""
    return 1 if parallel.device.type == "cuda" else parallel.world


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _disk(recipe: Recipe, students: Sequence[nn.Module], place: Path) -> Proof:
    stages = [stage.train for stage in recipe.all_stages]
    kept = kept_bytes(recipe, students) + few_bits_bytes(recipe, students[-1])
    needed = max(0, most_bytes(students, stages, kept) - written_bytes(place))
    free = shutil.disk_usage(existing(place / "checkpoints")).free
    pairs = zip(students, stages, strict=True)
    each = max(checkpoint_bytes(student, train) for student, train in pairs)
    fits = needed <= free
    return Proof(
        group="fit",
        name=NAME_DISK,
        outcome="proved" if fits else "failed",
        detail=f"{needed / GIB:.2f} GiB needed (a checkpoint {each / GIB:.2f}), "
        f"{free / GIB:.2f} GiB free",
        value=needed / GIB,
        limit=free / GIB,
        remedy=""
        if fits
        else "Make room, name an `output` on another disk, or lower train.keep_checkpoints",
    )


def kept_bytes(recipe: Recipe, students: Sequence[nn.Module]) -> int:
    """What is kept for good of students that become smaller: as each was cut, and as each was left
    behind, the last one apart."""
    if not recipe.cascades:
        return 0
    stages = list(zip(recipe.stages, students, strict=True))
    cut = [weight_bytes(model, stage.train) for stage, model in stages[1:] if stage.student]
    return sum(cut) + sum(weight_bytes(model, stage.train) for stage, model in stages[:-1])


def few_bits_bytes(recipe: Recipe, student: nn.Module) -> int:
    """What is written of a student in few bits: rounded, and trained, with its checkpoints.

    Args:
        recipe: What is to run.
        student: What the last stage leaves behind; its weights are not looked at.
    """
    scheme, stage = recipe.quantize, recipe.few_bits_stage
    if scheme is None or not isinstance(student, PreTrainedModel):
        return 0
    inside = sum(layer.weight.numel() for layer in plan(student, scheme)[0].values())
    outside = sum(p.numel() for p in student.parameters()) - inside
    saved = int(inside * scheme.bits_per_weight() / 8) + 2 * outside
    if stage is None or scheme.distill is None:
        return saved
    scales = 4 * (1 + MOMENTS) * (inside // scheme.group if scheme.group else 0)
    each = 4 * outside + scales
    each += 4 * (1 + MOMENTS) * inside if scheme.distill.parameters == "weights" else inside
    written = 1 + -(-stage.train.steps // stage.train.save_every)
    return 2 * saved + min(stage.train.keep_checkpoints + 1, written) * each


def _unknown(name: str, why: str) -> Proof:
    return Proof(group="fit", name=name, outcome="skipped", detail=why)
