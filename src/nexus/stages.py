"""Train the stages of a run one after another, and note what happens to them."""

from __future__ import annotations

from torch import nn

from nexus import cascade
from nexus.cursor import Later, skipped_steps
from nexus.findings import Finding, note
from nexus.kernels.decoder import compile_layers
from nexus.looks import looks
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Stage
from nexus.scene import Scene, stage_batches
from nexus.stopping import Stopping
from nexus.teachers.local import LocalTeacher
from nexus.training import loop
from nexus.training.checkpoint import Checkpoints, Notice
from nexus.training.fsdp import Sharded, shard, strategy
from nexus.training.killed import killed_for_memory, marked
from nexus.training.metrics import trackers
from nexus.training.module import DistillationModule
from nexus.training.prepare import compiles, finish, prepare
from nexus.training.settings import TrainSpec
from nexus.training.shortage import advice, explained
from nexus.voice import Say


def train_stages(scene: Scene, stopping: Stopping, say: Say) -> int:
    """The stages one after another, each on the student that the one before left behind.

    Those before the stage that was reached are not trained again: its checkpoint holds all there
    is of them, but for the shape that they gave the student.

    Returns:
        How long metrics.jsonl is at the end.
    """
    reached, metrics_bytes = reached_stage(scene, say), 0
    for number in range(len(scene.recipe.all_stages)):
        if number < reached and scene.recipe.cascades:
            continue
        batches = stage_batches(scene, number) if number >= max(reached, 0) else scene.batches
        cascade.begin(scene, number, batches, say)
        stage = scene.recipe.all_stages[number]
        model = prepare(scene.student, stage.train)
        if number >= max(reached, 0):
            teacher = cascade.teacher_of(scene, number)
            module = assemble(scene, stage, model, teacher, say)
            settings, sharded = spread(scene, module, stage.train, teacher)
            later = Later(batches, skipped_steps(scene.recipe, number))
            work = loop.Stage(
                stage.name, module, teacher, later, settings, scene.run.path,
                metrics_bytes, resumes=0 < number == reached,
                evaluate_maybe=looks(scene, module, settings, say),
            )  # fmt: skip
            metrics_bytes = train_stage(scene, work, stopping, say)
            model = sharded.whole() if sharded is not None else model
        scene.student = finish(model)
        cascade.leave(scene, number, say)
    return metrics_bytes


def spread(
    scene: Scene, module: DistillationModule, settings: TrainSpec, teacher: LocalTeacher
) -> tuple[TrainSpec, Sharded | None]:
    """Share out the weights of student and teacher over the processes, if that is the strategy."""
    chosen = strategy(settings, module.student, teacher.model, scene.parallel)
    settings = settings.model_copy(update={"parallel": chosen})
    if chosen == "ddp":
        return settings, None
    if teacher is not scene.teacher:
        shard(teacher.speaker, teacher.model)
    elif scene.sharded_teacher is None:
        scene.sharded_teacher = shard(scene.teacher.speaker, scene.teacher.model)
    return settings, shard(module, module.student)


def gather_teacher(scene: Scene) -> None:
    """Give the first process all of a teacher that was shared out."""
    if scene.sharded_teacher is not None:
        whole = scene.sharded_teacher.whole_on(scene.parallel)
        scene.sharded_teacher = None
        if whole is not None:
            scene.teacher = LocalTeacher(whole, scene.vocabulary, scene.packed)


def reached_stage(scene: Scene, say: Say) -> int:
    """The number of the last stage with a good checkpoint, and all that it began with; -1 if
    there is none."""
    stages = scene.recipe.all_stages
    return next(
        (
            number
            for number in reversed(range(len(stages)))
            if checkpoints_of(scene, stages[number], say).newest_together() is not None
            and cascade.can_begin(scene, number, say)
        ),
        -1,
    )


def checkpoints_of(scene: Scene, stage: Stage, say: Say) -> Checkpoints:
    folder = scene.run.path / "checkpoints" / stage.name
    return Checkpoints(
        folder, stage.train.keep_checkpoints, scene.parallel, noticing(scene, stage.name, say)
    )


def assemble(
    scene: Scene, stage: Stage, model: nn.Module, teacher: LocalTeacher, say: Say
) -> DistillationModule:
    """The student with the stage's objectives, compiled where that pays."""
    fused = compiles(stage.train, scene.student)
    module = DistillationModule(
        model, WeightedSum(stage.objectives), scene.vocabulary, packed=scene.packed, fused=fused
    )
    if fused:
        compile_layers(teacher.model)
        say("compiling at the first step, which takes a while")
    return module


def train_stage(scene: Scene, work: loop.Stage, stopping: Stopping, say: Say) -> int:
    """Train one stage, shown and noted everywhere; returns the length of metrics.jsonl."""
    parallel = scene.parallel
    boards = trackers(
        work.settings.dashboard, scene.run.path, scene.recipe.model_dump(mode="json"),
        is_main=parallel.is_main,
    )  # fmt: skip
    notice, remedy = noticing(scene, work.name, say), less_memory(scene, work.settings)
    if killed := killed_for_memory(scene.run.path):
        step, why = killed
        notice(step, f"the process before this one ended without a word, and {why}", remedy)
    with (
        stopping.gently(lambda: reached_step(scene, work.name)),
        explained(f"stage '{work.name}' was trained", remedy),
        marked(scene.run.path, writes=parallel.is_main),
    ):
        return loop.train(
            work, parallel, boards, stopping=stopping, quiet=not parallel.is_main, notice=notice
        )


def reached_step(scene: Scene, stage: str) -> str:
    """Where a run goes on that ends now."""
    reached = scene.run.reached((stage,))
    return f"the run goes on from step {reached[1]}" if reached else ""


def less_memory(scene: Scene, settings: TrainSpec | None = None) -> str:
    return advice(settings or scene.recipe.all_stages[-1].train, row_length(scene))


def noticing(scene: Scene, stage: str, say: Say) -> Notice:
    """Says what happened to a checkpoint, and keeps it."""

    def notice(step: int, what: str, remedy: str) -> None:
        say(f"{what}. {remedy}")
        if scene.parallel.is_main:
            note(scene.run.path, Finding(stage, step, what, remedy))

    return notice


def row_length(scene: Scene) -> int:
    return scene.recipe.data.sequence_length
