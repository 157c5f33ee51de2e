"""run(recipe): load → train the stages → save → quantise → evaluate → report. READ THIS FIRST."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus import durable, hub, proofs
from nexus.checking.check import begin, foreseen
from nexus.checking.fit import few_bits_bytes, kept_bytes, planned_students
from nexus.data import rejected
from nexus.disk import FULL, refusal
from nexus.errors import UsageError
from nexus.identity import refuse_another_recipe
from nexus.lock import Lock, acquire
from nexus.measuring import KEPT, evaluate, look_before
from nexus.milestones import is_sound
from nexus.quantization_aware import distill_quantized, is_reached
from nexus.quantizing import foresee, quantize_student
from nexus.recipe.schema import Recipe
from nexus.report.build import build
from nexus.report.card import model_card
from nexus.rundir import RunDirectory, put_aside
from nexus.scene import Models, Scene, configurations, load
from nexus.stages import gather_teacher, less_memory, train_stages
from nexus.stopping import Stopping
from nexus.training.parallel import TIMEOUT_SECONDS, Parallel, processes
from nexus.training.shortage import LAST_RESORT, explained
from nexus.training.space import require_space, weight_bytes
from nexus.voice import Say


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
            begins = is_new(directory, recipe)
            told = foreseen(recipe, folder, parallel, models) if begins else ()
            with explained("models and data were loaded", LAST_RESORT):
                scene = load(recipe, directory, folder, parallel, models, say, allow_changed)
            require_room(scene, models)
            foresee(scene, say)
            with parallel.alone() as alone:
                untrained = look_before(scene, say)
                why_not = ""
                if begins and alone:
                    why_not = begin(scene, told, untrained, in_memory=models is not None, say=say)
            refuse_together(why_not, parallel)
            stopping = stopping or Stopping()
            ended = None if is_reached(scene, say) else train_stages(scene, stopping, say)
            gather_teacher(scene)
        except UsageError:
            withdraw(directory)
            raise
        keep_student(scene, say)
        distill_quantized(scene, stopping, say, ended)
        with parallel.alone() as alone:
            if alone:
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


def require_room(scene: Scene, models: Models | None) -> None:
    """Make sure that all files will fit on the disk.

    Raises:
        UsageError: They will not.
    """
    recipe = scene.recipe
    configs = configurations(recipe, scene.folder, models)
    students = planned_students(recipe, configs, scene.student)
    settings = [stage.train for stage in recipe.all_stages]
    kept = kept_bytes(recipe, students) + few_bits_bytes(recipe, students[-1])
    require_space(scene.run.path, students, settings, scene.parallel, kept)


def is_new(directory: RunDirectory, recipe: Recipe) -> bool:
    """Whether nothing was checked yet, nor any step taken."""
    stages = tuple(stage.name for stage in recipe.all_stages)
    return not (directory.path / proofs.FILE_NAME).exists() and directory.reached(stages) is None


def refuse_together(why: str, parallel: Parallel) -> None:
    """Raise on all processes what one of them found.

    Raises:
        UsageError: with the reason, where it was found.
    """
    if parallel.any(bool(why)):
        raise UsageError(why or "something is not proved, which the first process names")


def withdraw(directory: RunDirectory) -> None:
    """Undo a run that was refused before its first step, so that the mended recipe can be run."""
    if not directory.begun_here or (directory.path / "metrics.jsonl").exists():
        return
    names = ("environment.json", "untrained.npy", "recipe.yaml")
    for name in (*names, rejected.FILE_NAME, proofs.FILE_NAME):
        (directory.path / name).unlink(missing_ok=True)
    shutil.rmtree(directory.path / KEPT, ignore_errors=True)
    if not any(directory.path.iterdir()):
        directory.path.rmdir()


def keep_student(scene: Scene, say: Say) -> None:
    """Write the student, and the same in few bits if the recipe says so; the first process does."""
    with scene.parallel.alone() as alone:
        if alone:
            save_student(scene, say)
            quantize_student(scene, say)


def save_student(scene: Scene, say: Say) -> None:
    """An ordinary checkpoint that loads with plain `from_pretrained`; whole or absent.

    Its manifest says nothing of the model card, which may be written again.
    """
    target, last = scene.run.student, scene.recipe.all_stages[-1]
    remedy = "The student is saved again"
    if is_sound(scene, target, last, say, step=last.train.steps, remedy=remedy):
        return
    scene.student.config.use_cache = True
    with durable.directory(target, needed=weight_bytes(scene.student, last.train)) as aside:
        hub.save(scene.student, scene.tokenizer, aside)
    durable.verify(target)
