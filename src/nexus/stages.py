"""Train the stages of a run one after another, and note what happens to them."""

from __future__ import annotations

from torch import nn

from nexus.findings import Finding, note
from nexus.kernels.decoder import compile_layers
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Stage
from nexus.scene import Say, Scene, stage_batches
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


def train_stages(scene: Scene, stopping: Stopping, say: Say) -> None:
    """The stages one after another, each on the student that the one before left behind.

    Those before the stage that was reached are not trained again: its checkpoint holds all there
    is of them, but for the shape that they gave the student.
    """
    stages, reached = scene.recipe.all_stages, reached_stage(scene, say)
    rows_taken = metrics_bytes = 0
    for number, stage in enumerate(stages):
        model = prepare(scene.student, stage.train)
        if number >= max(reached, 0):
            batches = stage_batches(scene, stage, rows_taken)
            module = assemble(scene, stage, model, say)
            settings, sharded = spread(scene, module, stage.train)
            work = loop.Stage(
                stage.name, module, scene.teacher, batches, settings, scene.run.path,
                metrics_bytes, resumes=0 < number == reached,
            )  # fmt: skip
            metrics_bytes = train_stage(scene, work, stopping, say)
            model = sharded.whole() if sharded is not None else model
        scene.student = finish(model)
        rows_taken += stage.train.steps * stage.train.tokens_per_step // row_length(scene)


def spread(
    scene: Scene, module: DistillationModule, settings: TrainSpec
) -> tuple[TrainSpec, Sharded | None]:
    """Share out the weights of student and teacher over the processes, if that is the strategy."""
    chosen = strategy(settings, module.student, scene.teacher.model, scene.parallel)
    settings = settings.model_copy(update={"parallel": chosen})
    if chosen == "ddp":
        return settings, None
    if scene.sharded_teacher is None:
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
    """The number of the last stage with a good checkpoint; -1 if there is none."""
    stages = scene.recipe.all_stages
    return next(
        (
            number
            for number in reversed(range(len(stages)))
            if checkpoints_of(scene, stages[number], say).newest_together() is not None
        ),
        -1,
    )


def checkpoints_of(scene: Scene, stage: Stage, say: Say) -> Checkpoints:
    folder = scene.run.path / "checkpoints" / stage.name
    return Checkpoints(
        folder, stage.train.keep_checkpoints, scene.parallel, noticing(scene, stage.name, say)
    )


def assemble(scene: Scene, stage: Stage, model: nn.Module, say: Say) -> DistillationModule:
    """The student with the stage's objectives, compiled where that pays."""
    fused = compiles(stage.train, scene.student)
    module = DistillationModule(
        model, WeightedSum(stage.objectives), scene.vocabulary, packed=scene.packed, fused=fused
    )
    if fused:
        compile_layers(scene.teacher.model)
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
