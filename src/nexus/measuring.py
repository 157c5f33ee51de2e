"""What a run measures of its student: before the first step, and after the last one."""

from __future__ import annotations

from typing import cast

import torch
from transformers import PreTrainedModel

from nexus import hub
from nexus.durable import Damaged
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.heldout import heldout
from nexus.evaluation.samples import continuations
from nexus.evaluation.size import size
from nexus.evaluation.speed import speed
from nexus.kernels.lm_head import split_head
from nexus.recipe.schema import Recipe
from nexus.results import Evaluation, Sample, Size, Speed
from nexus.scene import Say, Scene, move


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
