"""run(recipe): load → prepare → train the stages → save → evaluate → report. READ THIS FIRST."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from nexus import durable, hub
from nexus.data import rejected
from nexus.disk import FULL, refusal
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.heldout import heldout
from nexus.evaluation.samples import continuations
from nexus.evaluation.size import size
from nexus.evaluation.speed import speed
from nexus.findings import Finding, note
from nexus.identity import refuse_another_recipe
from nexus.kernels.decoder import compile_layers
from nexus.kernels.lm_head import split_head
from nexus.lock import Lock, acquire
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Recipe, Stage
from nexus.report.build import build
from nexus.report.card import model_card
from nexus.results import Evaluation, Sample, Size, Speed
from nexus.rundir import RunDirectory, put_aside
from nexus.scene import Models, Say, Scene, load, move, stage_batches
from nexus.stopping import Stopping
from nexus.teachers.local import LocalTeacher
from nexus.training import loop
from nexus.training.checkpoint import Checkpoints, Notice
from nexus.training.fsdp import Sharded, shard, strategy
from nexus.training.killed import killed_for_memory, marked
from nexus.training.metrics import trackers
from nexus.training.module import DistillationModule
from nexus.training.parallel import TIMEOUT_SECONDS, Parallel, processes
from nexus.training.prepare import compiles, finish, prepare
from nexus.training.settings import TrainSpec
from nexus.training.shortage import LAST_RESORT, advice, explained
from nexus.training.space import require_space, weight_bytes


def _silent(text: str) -> None:
    """What the other processes say."""


def run(
    recipe: Recipe,
    folder: Path,
    *,
    models: Models | None = None,
    fresh: bool = False,
    allow_changed: Collection[str] = (),
    lock: Lock | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    stopping: Stopping | None = None,
    say: Say = lambda text: None,
) -> RunDirectory:
    """Carry out a recipe, or what is still to be done of it.

    Args:
        recipe: what to do.
        folder: what relative paths are relative to, `output` included.
        models: teacher and student, if they are already in memory.
        fresh: put an earlier run of this name aside and begin anew.
        allow_changed: what of a run that goes on may be another than before: `identity.NAMES`.
        lock: the run directory's, if it is held already.
        timeout_seconds: how long a process waits for another one that does not answer.
        stopping: asked after every step whether to stop there, resumably; never by default.
        say: told in a sentence what begins.

    Raises:
        UsageError: for anything in recipe, models or data that the user can put right. Where it
            comes before the first step, nothing of the run is left.
        Interrupted: if it was stopped; the same call goes on.
    """
    place = folder / recipe.output
    with processes(timeout_seconds) as parallel, one_writer(place, parallel, lock, say) as lock:
        say = say if parallel.is_main else _silent
        directory = open_directory(place, recipe, folder, parallel, lock if fresh else None, say)
        recipe = directory.settled(recipe)
        if directory.is_finished:
            refuse_another_recipe(directory, recipe, folder)
            say(f"{directory.path} is finished: nothing to do. --fresh starts over")
            return directory
        try:
            with explained("models and data were loaded", LAST_RESORT):
                scene = load(recipe, directory, folder, parallel, models, say, allow_changed)
            settings = [stage.train for stage in recipe.all_stages]
            require_space(directory.path, scene.student, settings, parallel)
            with parallel.alone():
                untrained = look_before(scene, say)
            train_stages(scene, stopping or Stopping(), say)
            gather_teacher(scene)
        except UsageError:
            withdraw(directory)
            raise
        with parallel.alone() as alone:
            if alone:
                save_student(scene, say)
                with explained("the student was measured", less_memory(scene)):
                    evaluate(scene, untrained, say)
                durable.write(directory.student / "README.md", model_card(directory.path))
                build(directory.path)
    return directory


@contextmanager
def one_writer(
    path: Path, parallel: Parallel, lock: Lock | None, say: Say
) -> Iterator[Lock | None]:
    """Hold the run directory's lock, which the first process does for all."""
    if lock is not None or not parallel.is_main:
        yield lock
    else:
        with acquire(path, say) as taken:
            yield taken


def open_directory(
    path: Path,
    recipe: Recipe,
    folder: Path,
    parallel: Parallel,
    renewed: Lock | None = None,
    say: Say = _silent,
) -> RunDirectory:
    """Begin or continue the run: the first process makes the directory, the others find it.

    Args:
        path: the directory.
        recipe: what is to run.
        folder: what its paths are relative to.
        parallel: this process among the others.
        renewed: the lock of a directory whose run is to be put aside.
        say: told where that is now.

    Raises:
        UsageError: if it belongs to something else, or cannot be written.
    """
    directory = RunDirectory(path)
    if parallel.is_main:
        try:
            if renewed is not None and (aside := put_aside(path, renewed)) is not None:
                say(f"the earlier run is kept as {aside}")
            directory = RunDirectory.open(path, recipe, folder)
        except OSError as error:
            if error.errno in FULL:
                raise refusal(path, error.errno) from None
            raise UsageError(
                f"'output' is {path}, which cannot be written ({error.strerror}). Choose another "
                "directory"
            ) from None
    parallel.wait()
    return directory


def withdraw(directory: RunDirectory) -> None:
    """Undo a run that was refused before its first step, so that the mended recipe can be run."""
    if not directory.begun_here or (directory.path / "metrics.jsonl").exists():
        return
    for name in ("environment.json", "untrained.npy", "recipe.yaml", rejected.FILE_NAME):
        (directory.path / name).unlink(missing_ok=True)
    if not any(directory.path.iterdir()):
        directory.path.rmdir()


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


def save_student(scene: Scene, say: Say) -> None:
    """An ordinary checkpoint that loads with plain `from_pretrained`; whole or absent.

    Its manifest says nothing of the model card, which may be written again.
    """
    target, last = scene.run.student, scene.recipe.all_stages[-1]
    if target.exists():
        try:
            durable.verify(target)
            return
        except Damaged as damage:
            kept = f"what was there is kept as {durable.quarantine(target).name}"
            notice = noticing(scene, last.name, say)
            notice(last.train.steps, str(damage), f"The student is saved again; {kept}")
    scene.student.config.use_cache = True
    with durable.directory(target, needed=weight_bytes(scene.student, last.train)) as aside:
        hub.save(scene.student, scene.tokenizer, aside)
    durable.verify(target)


def look_before(scene: Scene, say: Say) -> Fidelity | None:
    """What the student is worth before its first step. Measured once, also if the run resumes."""
    file = scene.run.path / "untrained.npy"
    if not scene.recipe.data.heldout or not scene.parallel.is_main:
        return None
    if file.exists():
        try:
            return Fidelity.load(file)
        except Damaged as damage:
            say(str(damage))
    say("measuring the untrained student on the held-out documents")
    measured = fidelity_of(scene, scene.student)
    measured.save(file)
    return measured


def evaluate(scene: Scene, untrained: Fidelity | None, say: Say) -> None:
    """Measure the student as it lies on disk, beside its teacher, and write evaluation.json."""
    source = hub.ModelSource(
        model=str(scene.run.student.resolve()), trust_remote_code=trusts_code(scene.recipe)
    )
    student = hub.load_model(source, scene.folder)
    move(student, scene.parallel.device)
    teacher = scene.teacher.pretrained
    settings = scene.recipe.evaluate
    # What was compiled for the shapes of training would be compiled anew for every other shape.
    with torch.compiler.set_stance("force_eager"):
        quality = None
        if scene.recipe.data.heldout:
            say("measuring the trained student on the held-out documents")
            quality = heldout(fidelity_of(scene, student), untrained, seed=scene.recipe.seed)
        cast(torch.nn.Module, student).to(teacher.dtype)  # rates are compared in one type
        timed: Speed | None = None
        if settings.speed_seconds:
            say("timing teacher and student in turns")
            timed = speed(teacher, student, seconds=settings.speed_seconds, seed=scene.recipe.seed)
        Evaluation(
            heldout=quality,
            speed=timed,
            size=sizes(scene, student),
            samples=samples(scene, student),
        ).save(scene.run.path)


def trusts_code(recipe: Recipe) -> bool:
    """Whether the student may be made of Python code that came with a model."""
    match recipe.student.kind:
        case "pretrained":
            return recipe.student.trust_remote_code
        case "layers":
            return recipe.teacher.trust_remote_code
        case _:
            return False


def fidelity_of(scene: Scene, student: PreTrainedModel) -> Fidelity:
    settings = scene.recipe.all_stages[-1].train
    return measure(
        split_head(student, scene.vocabulary, scene.packed),
        scene.teacher,
        scene.batches.heldout(),
        scene.tokenizer,
        autocast=None if settings.precision == "fp32" else torch.bfloat16,
    )


def sizes(scene: Scene, student: PreTrainedModel) -> dict[str, Size]:
    where = scene.folder / scene.recipe.teacher.model
    return {
        "teacher": size(scene.teacher.pretrained, where if where.is_dir() else None),
        "student": size(student, scene.run.student),
    }


def samples(scene: Scene, student: PreTrainedModel) -> tuple[Sample, ...]:
    """Both continue the beginnings of the first held-out documents."""
    settings = scene.recipe.evaluate
    prompts: list[list[int]] = []
    for batch in scene.batches.heldout(rows=1):
        if len(prompts) == settings.samples:
            break
        first = batch.input_ids[0][batch.documents[0] == 0][: settings.sample_tokens]
        prompts.append(first.tolist())
    return continuations(scene.teacher.pretrained, student, scene.tokenizer, prompts)
