"""What the student of each stage is worth: right after it was cut, and when it was trained.

    stages/NAME/cut           the student as it was cut, before the stage trains it
    stages/NAME/cut.npy       what that is worth on the held-out documents
    stages/NAME/student       the student that the stage left behind; that of the last is the run's
    stages/NAME/trained.npy   what that is worth

All are compared with the recipe's teacher, whoever taught the stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from nexus import durable, hub
from nexus.compatibility import trusts_code
from nexus.durable import Damaged
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.footprint import footprints
from nexus.evaluation.heldout import changes
from nexus.evaluation.size import bytes_on_disk, size
from nexus.evaluation.speed import speed
from nexus.findings import Finding, note
from nexus.kernels.lm_head import split_head
from nexus.objectives.weighted_sum import WeightedSum
from nexus.planning.hollow import Hollow
from nexus.proofs import CutRecord
from nexus.recipe.schema import Stage
from nexus.results import Size, Speed, StageResult
from nexus.rundir import RunDirectory
from nexus.scene import PRUNING, Scene, move
from nexus.students.cutting import RECORD
from nexus.teachers.local import LocalTeacher
from nexus.voice import Say

CUT, STUDENT, TRAINED = "cut", "student", "trained.npy"


def place(run: RunDirectory, stage: Stage) -> Path:
    """Where a run keeps what a stage began and ended with."""
    return run.path / "stages" / stage.name


def student_folder(scene: Scene, number: int) -> Path:
    """Where the student is that a stage left behind."""
    stages = scene.recipe.all_stages
    if number == len(stages) - 1:
        return scene.run.student
    return place(scene.run, stages[number]) / STUDENT


def is_sound(
    scene: Scene,
    folder: Path,
    stage: Stage,
    say: Say,
    *,
    step: int = 0,
    remedy: str = "It is made again",
) -> bool:
    """Whether a model of the run is there and as it was written. A damaged one is put aside.

    Args:
        scene: of the run, whose report will say what was damaged.
        folder: where the model lies.
        stage: to which it belongs.
        say: told, too.
        step: of the stage, after which it was written.
        remedy: what becomes of one that is damaged.
    """
    if not folder.exists():
        return False
    try:
        durable.verify(folder)
        return True
    except Damaged as damage:
        remedy = f"{remedy}; what was there is kept as {durable.quarantine(folder).name}"
        say(f"{damage}. {remedy}")
        note(scene.run.path, Finding(stage.name, step, str(damage), remedy))
        return False


def source_of(scene: Scene, folder: Path) -> hub.ModelSource:
    """A student of the run, in the type that it trains in."""
    trusted = trusts_code(scene.recipe)
    return hub.ModelSource(model=str(folder.resolve()), trust_remote_code=trusted)


def last_cut(scene: Scene) -> int | None:
    """The number of the last stage that cuts its student; nothing if none does."""
    stages = scene.recipe.stages
    return next((n for n in reversed(range(len(stages))) if stages[n].student is not None), None)


def fidelity_of(
    scene: Scene, student: PreTrainedModel, beside: LocalTeacher | None = None
) -> Fidelity:
    """How closely a student follows the teacher, or another, on all held-out documents."""
    settings = scene.recipe.all_stages[-1].train
    # What was compiled for the shapes of training would be compiled anew for every other shape.
    with torch.compiler.set_stance("force_eager"):
        return measure(
            split_head(student, scene.vocabulary, scene.packed),
            beside or scene.teacher,
            scene.batches.heldout(),
            scene.tokenizer,
            autocast=None if settings.precision == "fp32" else torch.bfloat16,
        )


def measured_once(
    scene: Scene, file: Path, student: PreTrainedModel, what: str, say: Say
) -> Fidelity | None:
    """`fidelity_of`, or what a file says of it, which is written; nothing without held-out text."""
    if not scene.recipe.data.heldout:
        return None
    if file.exists():
        try:
            return Fidelity.load(file)
        except Damaged as damage:
            say(str(damage))
    say(f"measuring {what} on the held-out documents")
    measured = fidelity_of(scene, student)
    measured.save(file)
    return measured


def stage_results(
    scene: Scene, untrained: Fidelity | None, trained: Fidelity | None, say: Say
) -> tuple[StageResult, ...]:
    """The account of all stages: size, tokens, arithmetic, what cutting cost, what came back.

    Args:
        scene: with the teacher whole.
        untrained: what the first student was worth before its first step.
        trained: what the run's own student is worth.
        say: told what is measured anew, where a file is damaged.
    """
    stages, seed = scene.recipe.all_stages, scene.recipe.seed
    teacher = size(scene.teacher.pretrained)
    results: list[StageResult] = []
    before, earlier = untrained, teacher
    for number, stage in enumerate(stages):
        own, kept = size_of(scene, student_folder(scene, number)), place(scene.run, stage)
        begun, cost = before, {}
        if number and stage.student is not None:
            begun = _known(scene, kept / f"{CUT}.npy", kept / CUT, say)
            cost = changes(begun, before, seed=seed) if begun and before else {}
        last = number == len(stages) - 1
        ended = trained if last else _known(
            scene, kept / TRAINED, student_folder(scene, number), say
        )  # fmt: skip
        told = earlier if stage.teacher == "previous" else teacher
        tokens = stage.train.steps * stage.train.tokens_per_step
        results.append(
            StageResult(
                name=stage.name,
                teacher=stage.teacher if needs_teacher(stage) else "none",
                parameters=own.parameters,
                steps=stage.train.steps,
                tokens=tokens,
                student_flops=_times(own.flops_per_token, tokens * passes(stage)),
                teacher_flops=_times(told.flops_per_token, tokens * bool(needs_teacher(stage))),
                begun=begun.student(seed) if begun else None,
                ended=ended.student(seed) if ended else None,
                cost_of_cut=cost,
                change=changes(ended, begun, seed=seed) if ended and begun else {},
                bytes_on_disk=bytes_on_disk(student_folder(scene, number)),
                speed=_speed_of(scene, number, say),
            )
        )
        before, earlier = ended, own
    return tuple(results)


def cut_records(scene: Scene) -> tuple[CutRecord, ...]:
    """What each cut of the run wrote down: the target, the search, the proofs."""
    folders = {"": scene.run.path / PRUNING}
    folders |= {stage.name: place(scene.run, stage) / PRUNING for stage in scene.recipe.stages}
    found: list[CutRecord] = []
    for name, folder in folders.items():
        path = folder / RECORD
        if path.is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            values = {key: told.get(key) for key in ("target", "search")}
            values["proofs"] = told.get("proofs", [])
            found.append(CutRecord.parse({"stage": name, **values}, where=str(path)))
    return tuple(found)


def _speed_of(scene: Scene, number: int, say: Say) -> Speed | None:
    """Of the student that a stage left, where the next one makes another of it."""
    following = scene.recipe.all_stages[number + 1 : number + 2]
    cut_next = any(stage.student is not None for stage in following)
    if not cut_next or not scene.recipe.evaluate.speed_seconds:
        return None
    return _timed(scene, student_folder(scene, number), say)


def _timed(scene: Scene, folder: Path, say: Say) -> Speed:
    """A stage's student beside the teacher and in its type, at the first batch size."""
    settings, teacher = scene.recipe.evaluate, scene.teacher.pretrained
    say(f"timing teacher and the student in {folder} in turns")
    source = source_of(scene, folder)
    student = hub.load_model(source, folder)
    move(student, scene.parallel.device)
    cast(torch.nn.Module, student).to(teacher.dtype)
    timed = speed(
        teacher, student, seconds=settings.speed_seconds, seed=scene.recipe.seed,
        batch_sizes=settings.batch_sizes[:1],
    )  # fmt: skip
    held = source.model_copy(update={"dtype": scene.recipe.teacher.dtype})
    memory, left_out = footprints({"student": held}, {"student": student}, folder)
    return timed.model_copy(update={"memory_gib": memory, "left_out": (*timed.left_out, *left_out)})


def passes(stage: Stage) -> int:
    """What a step costs in forward passes of the student, that of recomputing them included."""
    backward = 1 if stage.train.lora else 2
    return 1 + backward + stage.train.gradient_checkpointing


def needs_teacher(stage: Stage) -> bool:
    """Whether any of its terms does; else the text alone teaches, and no teacher is run."""
    return bool(WeightedSum(stage.objectives).needs)


def size_of(scene: Scene, folder: Path) -> Size:
    """How big a student is that lies on disk; it is loaded only where its configuration says
    nothing of its weights."""
    source = source_of(scene, folder)
    config = hub.load_config(source, folder)
    if Hollow.can_be(config):
        return size(Hollow(config).model)
    return size(hub.load_model(source, folder))


def _known(scene: Scene, file: Path, folder: Path, say: Say) -> Fidelity | None:
    """What a file says; the student is measured anew where it is damaged or gone."""
    if not scene.recipe.data.heldout:
        return None
    try:
        return Fidelity.load(file)
    except (Damaged, FileNotFoundError):
        student = hub.load_model(source_of(scene, folder), folder)
        cast(torch.nn.Module, student).to(scene.parallel.device)
        return measured_once(scene, file, student, f"the student in {folder}", say)


def _times(flops: float | None, count: int) -> float | None:
    return None if flops is None else flops * count
