"""run(recipe): load → prepare → train the stages → save → evaluate → report. READ THIS FIRST."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from nexus import durable, hub
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.heldout import heldout
from nexus.evaluation.samples import continuations
from nexus.evaluation.size import size
from nexus.evaluation.speed import speed
from nexus.kernels.decoder import compile_layers
from nexus.kernels.lm_head import split_head
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Recipe, Stage
from nexus.report.build import build
from nexus.report.card import model_card
from nexus.results import Evaluation, Sample, Size, Speed
from nexus.rundir import RunDirectory
from nexus.scene import Models, Say, Scene, load, move, stage_batches
from nexus.stopping import Stopping
from nexus.training import loop
from nexus.training.checkpoint import Checkpoints, Notice
from nexus.training.metrics import trackers
from nexus.training.module import DistillationModule
from nexus.training.parallel import Parallel, processes
from nexus.training.prepare import can_compile, compiles, finish, prepare
from nexus.training.space import require_space, weight_bytes


def _silent(text: str) -> None:
    """What the other processes say."""


def run(
    recipe: Recipe,
    folder: Path,
    *,
    models: Models | None = None,
    fresh: bool = False,
    stopping: Stopping | None = None,
    say: Say = lambda text: None,
) -> RunDirectory:
    """Carry out a recipe, or what is still to be done of it.

    Args:
        recipe: what to do.
        folder: what relative paths are relative to, `output` included.
        models: teacher and student, if they are already in memory.
        fresh: put an earlier run of this name aside and begin anew.
        stopping: asked after every step whether to stop there, resumably; never by default.
        say: told in a sentence what begins.

    Raises:
        UsageError: for anything in recipe, models or data that the user can put right. Where it
            comes before the first step, nothing of the run is left.
        Interrupted: if it was stopped; the same call goes on.
    """
    with processes() as parallel:
        say = say if parallel.is_main else _silent
        directory = open_directory(folder / recipe.output, recipe, parallel, fresh=fresh)
        if directory.is_finished:
            say(f"{directory.path} is finished: nothing to do. --fresh starts over")
            return directory
        try:
            scene = load(recipe, directory, folder, parallel, models, say)
            settings = [stage.train for stage in recipe.all_stages]
            require_space(directory.path, scene.student, settings, parallel)
            untrained = look_before(scene, say)
            train_stages(scene, stopping or Stopping(), say)
        except UsageError:
            withdraw(directory, parallel)
            raise
        if parallel.is_main:
            save_student(scene, say)
            evaluate(scene, untrained, say)
            durable.write(directory.student / "README.md", model_card(directory.path))
            build(directory.path)
    return directory


def open_directory(
    path: Path, recipe: Recipe, parallel: Parallel, *, fresh: bool = False
) -> RunDirectory:
    """Begin or continue the run: the first process makes the directory, the others find it.

    Raises:
        UsageError: if it belongs to something else, or cannot be written.
    """
    try:
        directory = RunDirectory.open(path, recipe, fresh=fresh) if parallel.is_main else None
    except OSError as error:
        raise UsageError(
            f"'output' is {path}, which cannot be written ({error.strerror}). Choose another "
            "directory"
        ) from None
    parallel.wait()
    return directory or RunDirectory.open(path, recipe)


def withdraw(directory: RunDirectory, parallel: Parallel) -> None:
    """Undo a run that was refused before its first step, so that the mended recipe can be run."""
    if not parallel.is_main or (directory.path / "metrics.jsonl").exists():
        return
    for name in ("environment.json", "untrained.npy", "recipe.yaml"):
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
            work = loop.Stage(
                stage.name, module, scene.teacher, batches, stage.train, scene.run.path,
                metrics_bytes, resumes=0 < number == reached,
            )  # fmt: skip
            metrics_bytes = train_stage(scene, work, stopping, say)
        scene.student = finish(model)
        rows_taken += stage.train.steps * stage.train.tokens_per_step // row_length(scene)


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
    elif stage.train.compile == "auto" and not can_compile(scene.parallel.device):
        say("no C++ compiler with Python's headers was found: nothing is compiled, and slower")
    return module


def train_stage(scene: Scene, work: loop.Stage, stopping: Stopping, say: Say) -> int:
    """Train one stage, shown and noted everywhere; returns the length of metrics.jsonl."""
    parallel = scene.parallel
    boards = trackers(
        work.settings.dashboard, scene.run.path, scene.recipe.model_dump(mode="json"),
        is_main=parallel.is_main,
    )  # fmt: skip
    with stopping.gently():
        return loop.train(
            work, parallel, boards, stopping=stopping, quiet=not parallel.is_main,
            notice=noticing(scene, work.name, say),
        )  # fmt: skip


def noticing(scene: Scene, stage: str, say: Say) -> Notice:
    """Says what happened to a checkpoint, and keeps it."""

    def notice(step: int, what: str, remedy: str) -> None:
        say(f"{what}. {remedy}")
        scene.notices.append(f"Stage {stage}, step {step}: {what}. {remedy}.")

    return notice


def row_length(scene: Scene) -> int:
    return scene.recipe.data.sequence_length


def save_student(scene: Scene, say: Say) -> None:
    """An ordinary checkpoint that loads with plain `from_pretrained`; whole or absent.

    Its manifest says nothing of the model card, which may be written again.
    """
    target = scene.run.student
    if target.exists():
        try:
            durable.verify(target)
            return
        except Damaged as damage:
            aside = durable.quarantine(target)
            say(f"{damage}. The student is saved again; what was there is kept as {aside.name}")
    scene.student.config.use_cache = True
    final = scene.recipe.all_stages[-1].train
    with durable.directory(target, needed=weight_bytes(scene.student, final)) as aside:
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
    source = hub.ModelSource(model=str(scene.run.student.resolve()))
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
    prompts: list[str] = []
    for batch in scene.batches.heldout(rows=1):
        if len(prompts) == settings.samples:
            break
        first = batch.input_ids[0][batch.documents[0] == 0][: settings.sample_tokens]
        prompts.append(str(scene.tokenizer.decode(first)))
    return continuations(scene.teacher.pretrained, student, scene.tokenizer, prompts)
