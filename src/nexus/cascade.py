"""Students that are cut between stages: each out of the one that the stage before left behind.

What a stage begins with and what it leaves behind are kept whole (see `nexus.milestones`), so that
a run that ends at any moment goes on with the very same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nexus import durable, hub
from nexus.batch import Batch
from nexus.cursor import first_row
from nexus.data.loader import Batches
from nexus.disk import writing
from nexus.errors import UsageError
from nexus.hub import Dtype
from nexus.kernels.lm_head import prove, split_head
from nexus.milestones import (
    CUT,
    STUDENT,
    TRAINED,
    is_sound,
    measured_once,
    place,
    source_of,
    student_folder,
)
from nexus.pruning.saved import reread, said
from nexus.pruning.target import Types
from nexus.recipe.schema import Stage
from nexus.scene import CALIBRATION_TOKENS, PRUNING, Scene, decided, move
from nexus.students import AnyStudent
from nexus.students.cutting import note_proof
from nexus.teachers.local import LocalTeacher
from nexus.training.space import weight_bytes
from nexus.voice import Say


def begin(scene: Scene, number: int, batches: Batches, say: Say) -> None:
    """Make the scene's student the one that a stage begins with, on all processes alike.

    Args:
        scene: with the student that the stage before left, or any where `can_begin`.
        number: of the stage.
        batches: the stage's data.
        say: told in a sentence what begins.
    """
    stages = scene.recipe.all_stages
    if number == 0 or not scene.recipe.cascades:
        return
    stage = stages[number]
    with _undisturbed(scene):
        if stage.student is None:
            scene.student = _loaded(scene, student_folder(scene, number - 1))
            return
        folder = place(scene.run, stage) / CUT
        with scene.parallel.alone() as alone:
            if alone and not is_sound(scene, folder, stage, say):
                _cut(scene, number, batches, folder, say)
        scene.student = _loaded(scene, folder)
        with scene.parallel.alone() as alone:
            if alone:
                file = folder.with_name(f"{CUT}.npy")
                what = f"the student as it was cut for stage '{stage.name}'"
                measured_once(scene, file, scene.student, what, say)
    _settle(scene, number)


def leave(scene: Scene, number: int, say: Say) -> None:
    """Keep the student that a stage has trained, and what it is worth. The last is kept as ever."""
    stages = scene.recipe.all_stages
    if not scene.recipe.cascades:
        return
    with _undisturbed(scene):
        _gather(scene)
        if number == len(stages) - 1:
            return
        stage = stages[number]
        folder = place(scene.run, stage) / STUDENT
        with scene.parallel.alone() as alone:
            if alone:
                if not is_sound(scene, folder, stage, say):
                    _save(scene, scene.student, folder, stage)
                what = f"the student that stage '{stage.name}' trained"
                measured_once(scene, folder.with_name(TRAINED), scene.student, what, say)


def can_begin(scene: Scene, number: int, say: Say) -> bool:
    """Whether a stage can be begun again without training the one before it; known to all.

    What is damaged is put aside.
    """
    stages = scene.recipe.all_stages
    if number == 0 or not scene.recipe.cascades:
        return True
    stage, missing = stages[number], False
    with scene.parallel.alone() as alone:
        if alone:
            folder = place(scene.run, stage) / CUT
            cut = stage.student is not None and is_sound(scene, folder, stage, say)
            before = is_sound(scene, student_folder(scene, number - 1), stages[number - 1], say)
            missing = not before and not (cut and stage.teacher == "original")
    return not scene.parallel.any(missing)


def teacher_of(scene: Scene, number: int) -> LocalTeacher:
    """Whom a stage learns from: the scene's teacher, or a frozen copy of the student before."""
    if scene.recipe.all_stages[number].teacher == "original":
        return scene.teacher
    source = source_of(scene, student_folder(scene, number - 1))
    with _undisturbed(scene):
        model = hub.load_model(source, scene.folder, dtype=scene.recipe.teacher.dtype)
        move(model, scene.parallel.device)
    return LocalTeacher(model, scene.vocabulary, scene.packed)


def _cut(scene: Scene, number: int, batches: Batches, folder: Path, say: Say) -> None:
    """Cut the student that the stage before left, on the text that the stage is to train on."""
    stage = scene.recipe.all_stages[number]
    if stage.student is None:
        raise ValueError(f"stage '{stage.name}' cuts no student")
    say(f"cutting the student of stage '{stage.name}' ({stage.student.kind})")
    # As it lies on disk, and not as it was trained: the same numbers when the run is begun again.
    larger = _loaded(scene, student_folder(scene, number - 1), dtype="auto")
    tokens = stage.student.tokens if stage.student.kind == "pruned" else CALIBRATION_TOKENS
    text = batches.beginning(tokens, first_row(scene.recipe, number))
    looked_at = (batch.to(scene.parallel.device) for batch in text)
    try:
        smaller = _built(scene, number, stage.student, larger, looked_at, say)
    except UsageError as error:
        raise UsageError(f"stage '{stage.name}': {error}") from None
    del larger
    _save(scene, smaller, folder, stage)
    proof = reread(said(smaller), folder, smaller.device)
    if stage.student.kind == "pruned":
        note_proof(place(scene.run, stage) / PRUNING, proof)


def _built(
    scene: Scene,
    number: int,
    student: AnyStudent,
    larger: PreTrainedModel,
    text: Iterable[Batch],
    say: Say,
) -> PreTrainedModel:
    given = (larger, text, scene.folder, scene.recipe.seed)
    if student.kind == "pruned":
        stage = scene.recipe.all_stages[number]
        # Timed as the first student was, whose larger model the teacher is.
        types = Types(scene.recipe.saved_in(number), scene.teacher.pretrained.dtype)
        return student.build(*given, place(scene.run, stage) / PRUNING, say, types, saved_next=True)
    return student.build(*given)


def _save(scene: Scene, student: PreTrainedModel, folder: Path, stage: Stage) -> None:
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    durable.sweep(folder.parent)
    caching = student.config.use_cache
    student.config.use_cache = True
    with durable.directory(folder, needed=weight_bytes(student, stage.train)) as aside:
        hub.save(student, scene.tokenizer, aside)
    student.config.use_cache = caching
    durable.verify(folder)


def _loaded(scene: Scene, folder: Path, dtype: Dtype = "float32") -> PreTrainedModel:
    """A student of the run, proved to be whole."""
    durable.verify(folder)
    student = hub.load_model(source_of(scene, folder), scene.folder, dtype=dtype)
    move(student, scene.parallel.device)
    prove(split_head(student, scene.vocabulary, scene.packed))
    return student


def _settle(scene: Scene, number: int) -> None:
    """What `auto` comes to for the student of a stage, which is not there before."""
    stages = list(scene.recipe.stages)
    settled = decided(stages[number].train, scene.student)
    stages[number] = stages[number].model_copy(update={"train": settled})
    scene.recipe = scene.recipe.model_copy(update={"stages": tuple(stages)})
    if scene.parallel.is_main:
        scene.run.write_recipe(scene.recipe, scene.folder)


def _gather(scene: Scene) -> None:
    """Give every process all of a teacher that was shared out, to measure with and share again."""
    if scene.sharded_teacher is not None:
        whole = scene.sharded_teacher.whole()
        scene.sharded_teacher = None
        scene.teacher = LocalTeacher(whole, scene.vocabulary, scene.packed)


@contextmanager
def _undisturbed(scene: Scene) -> Iterator[None]:
    """Use up none of the random numbers that training goes on with."""
    device = scene.parallel.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
