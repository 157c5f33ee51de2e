"""What a run measures of its student: before the first step, and after the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from nexus import fingerprint, hub
from nexus.candidates import identity
from nexus.compatibility import trusts_code
from nexus.evaluation.exam import Examinee, exam
from nexus.evaluation.fidelity import Fidelity
from nexus.evaluation.footprint import footprints
from nexus.evaluation.heldout import heldout
from nexus.evaluation.kept import Kept, folder_of
from nexus.evaluation.rollouts import rollouts
from nexus.evaluation.samples import continuations
from nexus.evaluation.size import size
from nexus.evaluation.speed import speed
from nexus.evaluation.tasks.task import TaskSpec
from nexus.forms import forms
from nexus.kernels.lm_head import split_head
from nexus.milestones import (
    CUT,
    cut_records,
    fidelity_of,
    last_cut,
    measured_once,
    place,
    source_of,
    stage_results,
)
from nexus.quantizing import quantized_results
from nexus.recipe.schema import Recipe
from nexus.results import Evaluation, Rollouts, Sample, Size, Speed, TaskResult
from nexus.scene import Scene, move
from nexus.voice import Say

KEPT, UNTRAINED = "evaluation", "untrained"
"""Where in a run what was measured is kept, and where there what the student was before it."""


PROMPT_TOKENS = 32
"""Of a document that the student continues."""


def look_before(scene: Scene, say: Say) -> Fidelity | None:
    """What the student is worth before its first step. Measured once, also if the run resumes."""
    file = scene.run.path / "untrained.npy"
    if not scene.parallel.is_main:
        return None
    if last_cut(scene) is None:  # else the last student's own beginning is still to come
        examine(scene, {"untrained": _examinee(scene, scene.student, UNTRAINED)}, say)
    return measured_once(scene, file, scene.student, "the untrained student", say)


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
        tasks = examine(scene, examinees(scene, student), say)
        quality, own_text, trained = None, None, None
        if scene.recipe.data.heldout:
            say("measuring the trained student on the held-out documents")
            trained = fidelity_of(scene, student)
        few = quantized_results(scene, student, trained, say)
        stages = stage_results(scene, untrained, trained, say) if scene.recipe.cascades else ()
        if trained is not None:
            began = beginning(scene, untrained)
            quality = heldout(trained, began, seed=scene.recipe.seed)
            own_text = rollouts_of(scene, student, trained, say)
        cast(torch.nn.Module, student).to(teacher.dtype)  # rates are compared in one type
        timed: Speed | None = None
        if settings.speed_seconds:
            say("timing teacher and student in turns")
            timed = speed(
                teacher,
                student,
                seconds=settings.speed_seconds,
                seed=scene.recipe.seed,
                batch_sizes=settings.batch_sizes,
            )
            timed = with_memory(timed, scene, {"teacher": teacher, "student": student}, source)
        found = Evaluation(
            heldout=quality,
            rollouts=own_text,
            speed=timed,
            tasks=tasks,
            size=sizes(scene, student),
            samples=samples(scene, student),
            stages=stages,
            quantized=few,
            cuts=cut_records(scene),
        )
        found.model_copy(update={"forms": forms(scene.recipe, found)}).save(scene.run.path)


def beginning(scene: Scene, untrained: Fidelity | None) -> Fidelity | None:
    """What the student was worth before its first step at the size that it has in the end."""
    number = last_cut(scene)
    if number is None:
        return untrained
    return Fidelity.load(place(scene.run, scene.recipe.stages[number]) / f"{CUT}.npy")


def as_cut(scene: Scene) -> Callable[[], PreTrainedModel] | None:
    """Loads the student as it was last cut, to be asked untrained; nothing if it never was."""
    number = last_cut(scene)
    if number is None:
        return None
    folder = place(scene.run, scene.recipe.stages[number]) / CUT

    def load() -> PreTrainedModel:
        model = hub.load_model(source_of(scene, folder), scene.folder)
        move(model, scene.parallel.device)
        return model

    return load


def with_memory(
    timed: Speed, scene: Scene, models: Mapping[str, PreTrainedModel], student: hub.ModelSource
) -> Speed:
    """With what each takes alone. A teacher that is in memory only cannot be loaded again, and of
    one in few bits the whole weights would be."""
    dtype = scene.recipe.teacher.dtype
    sources = {"student": student.model_copy(update={"dtype": dtype})}
    if not scene.in_memory and scene.recipe.teacher.scheme is None:
        sources = {"teacher": scene.recipe.teacher, **sources}
    memory, left_out = footprints(sources, models, scene.folder)
    return timed.model_copy(update={"memory_gib": memory, "left_out": (*timed.left_out, *left_out)})


def examinees(scene: Scene, student: PreTrainedModel) -> dict[str, Examinee]:
    """The teacher, the student before its first step (which has answered), and after its last."""
    teacher, recipe = scene.teacher.pretrained, scene.recipe
    told = scene.run.environment["fingerprints"]["teacher"]
    saved = hub.ModelSource(model=scene.run.student.name)
    kept = {
        "teacher": identity(told, scene.tokenizer, held_as(recipe)),
        "trained": identity(
            str(fingerprint.of_source(saved, scene.run.path)), scene.tokenizer, saved.dtype
        ),
    }
    place = scene.run.path / KEPT
    return {
        "teacher": _examinee(scene, teacher, folder_of(place, kept["teacher"]).name),
        "untrained": Examinee(
            as_cut(scene), scene.tokenizer, Kept(scene.run.path / KEPT / UNTRAINED)
        ),
        "trained": _examinee(scene, student, folder_of(place, kept["trained"]).name),
    }


def held_as(recipe: Recipe) -> str:
    """What the teacher computes in."""
    scheme = recipe.teacher.scheme
    return recipe.teacher.dtype if scheme is None else f"{recipe.teacher.dtype}, {scheme}"


def examine(scene: Scene, of: Mapping[str, Examinee], say: Say) -> dict[str, TaskResult]:
    """The recipe's tasks, put to some models."""
    recipe = scene.recipe
    return exam(
        recipe.evaluate.tasks,
        of,
        folder=scene.folder,
        trained_on=lambda task: is_trained_on(task, recipe, scene.folder),
        say=say,
        seed=recipe.seed,
    )


def is_trained_on(task: TaskSpec, recipe: Recipe, folder: Path) -> bool:
    """Whether a training source has the task's name, or is the very file of its items."""
    items = task.model_dump().get("path")
    for source in recipe.data.sources:
        if source.task and source.task == task.name:
            return True
        path = source.model_dump().get("path")
        if path and items and (folder / path).resolve() == (folder / items).resolve():
            return True
    return False


def _examinee(scene: Scene, model: PreTrainedModel | None, name: str) -> Examinee:
    return Examinee(
        None if model is None else lambda: model,
        scene.tokenizer,
        Kept(scene.run.path / KEPT / name),
    )


def rollouts_of(
    scene: Scene, student: PreTrainedModel, text: Fidelity, say: Say
) -> Rollouts | None:
    """How closely the student follows its teacher on what it writes itself."""
    settings, precision = scene.recipe.evaluate, scene.recipe.all_stages[-1].train.precision
    if not settings.rollouts or not can_be_continued(text, say):
        return None
    say("measuring the trained student on what it writes itself")
    return rollouts(
        split_head(student, scene.vocabulary, scene.packed),
        scene.teacher,
        scene.tokenizer,
        scene.batches.heldout(),
        documents=settings.rollouts,
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=settings.rollout_tokens,
        seed=scene.recipe.seed,
        autocast=None if precision == "fp32" else torch.bfloat16,
    ).results(scene.recipe.seed)


def can_be_continued(text: Fidelity, say: Say) -> bool:
    """Whether any document is long enough to have a beginning and something after it."""
    if text.documents["tokens"].max() >= PROMPT_TOKENS:
        return True
    say(f"no document has more than {PROMPT_TOKENS} tokens: nothing is continued")
    return False


def sizes(scene: Scene, student: PreTrainedModel) -> dict[str, Size]:
    where = scene.folder / scene.recipe.teacher.model
    teacher = size(scene.teacher.pretrained, where if where.is_dir() else None)
    if (whole := scene.narrowed_from) is not None:
        teacher = whole.model_copy(update={"bytes_on_disk": teacher.bytes_on_disk})
    return {
        "teacher": teacher,
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
