"""The quantised form of a run's student: written after training, and measured beside the student.

student-int4/              the student in few bits, with its tokenizer and quantization.json
student-int4-distilled/    the same after it was trained in few bits, if the recipe says so
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus import durable, hub
from nexus.architectures import loaded_apart
from nexus.calibration import TOKENS, calibrated
from nexus.errors import NexusError, UsageError
from nexus.evaluation.fidelity import Fidelity
from nexus.evaluation.footprint import footprints
from nexus.evaluation.heldout import changes
from nexus.evaluation.retention import perplexity_ratio
from nexus.evaluation.size import bytes_on_disk, size
from nexus.evaluation.speed import speed
from nexus.findings import Finding, note
from nexus.hub import ModelSource
from nexus.kernels.decoder import evaluated
from nexus.milestones import fidelity_of, is_sound, source_of
from nexus.quantization.quantize import HEAD, Quantized, plan
from nexus.quantization.scheme import Scheme
from nexus.results import OverRounded, QuantizedResult, Speed
from nexus.scene import Scene, move
from nexus.teachers.local import LocalTeacher
from nexus.voice import Say

FILE_NAME = "quantization.json"

SAVED: Literal["bfloat16"] = "bfloat16"
"""The type of all that is not in few bits, scales included."""


def folder_of(scene: Scene, scheme: Scheme, *, distilled: bool = False) -> Path:
    """Where a run keeps the student in few bits: rounded, or trained after that."""
    name = f"student-{scheme.scheme.replace('_', '-')}"
    return scene.run.path / (f"{name}-distilled" if distilled else name)


def foresee(scene: Scene, say: Say) -> None:
    """Refuse before the first step what could not be quantised after the last one.

    Args:
        scene: of a run whose student is known.
        say: told of layers that will stay whole.

    Raises:
        UsageError: nothing of the student can be, or processes cannot share out its training.
    """
    if (scheme := scene.recipe.quantize) is not None:
        fitting, kept = plan(scene.student, scheme)
        if whole := [why for why in kept.values() if why != HEAD]:
            say(
                f"{len(whole)} layers will stay whole and {len(fitting)} will be in {scheme}: of "
                f"the first, {whole[0]}. Smaller groups fit more rows, as does a student that is "
                "cut in larger multiples"
            )
    if (stage := scene.recipe.few_bits_stage) is not None:
        length, world = scene.recipe.data.sequence_length, scene.parallel.world
        if stage.train.tokens_per_step % (length * world):
            raise UsageError(
                f"quantize.distill.train.tokens_per_step is {stage.train.tokens_per_step}, which "
                f"is no multiple of sequence_length {length} × {world} processes. Set it to "
                f"{-(-stage.train.tokens_per_step // (length * world)) * length * world}"
            )


def quantize_student(scene: Scene, say: Say) -> None:
    """Write the saved student in few bits, whole or not at all; once, also if the run resumes."""
    scheme = scene.recipe.quantize
    if scheme is None:
        return
    folder, last = folder_of(scene, scheme), scene.recipe.all_stages[-1]
    if is_sound(scene, folder, last, say, step=last.train.steps):
        return
    say(f"quantising the student: {scheme}")
    student = hub.load_model(source_of(scene, scene.run.student), scene.folder)
    move(student, scene.parallel.device)
    looked_at = (batch.to(scene.parallel.device) for batch in scene.batches.beginning(TOKENS))
    found = calibrated(student, scheme, looked_at, dtype=getattr(torch, SAVED))
    for name, why in found.left_out.items():
        remedy = "Choose another quantize.group_size if it should be"
        finding = Finding(last.name, last.train.steps, f"'{name}' is not quantised: {why}", remedy)
        say(str(finding))
        note(scene.run.path, finding)
    keep(scene, found, folder, {"model": scene.run.student.name})


def keep(scene: Scene, found: Quantized, folder: Path, facts: dict[str, Any]) -> None:
    """Write a model in few bits into the run, whole or not at all."""
    needed = sum(value.nbytes for value in found.model.state_dict().values())
    with durable.directory(folder, needed=needed) as aside:
        save_quantized(found, scene.tokenizer, aside, facts)
    durable.verify(folder)


def quantized_results(
    scene: Scene, student: PreTrainedModel, trained: Fidelity | None, say: Say
) -> QuantizedResult | None:
    """What the student in few bits costs and is worth, beside the student that it was made of.

    Args:
        scene: with the teacher whole.
        student: the run's, as it was saved.
        trained: what that is worth beside the teacher; nothing without held-out text.
        say: told in a sentence what begins.
    """
    scheme, settings = scene.recipe.quantize, scene.recipe.evaluate
    if scheme is None:
        return None
    folder = folder_of(scene, scheme)
    result, plain = _measured(scene, folder, student, trained, say)
    if scene.recipe.few_bits_stage is not None:
        where = folder_of(scene, scheme, distilled=True)
        distilled, after = _measured(scene, where, student, trained, say)
        if plain is not None and after is not None:
            distilled = distilled.model_copy(update={"over_rounded": _over(scene, after, plain)})
        result = result.model_copy(update={"distilled": distilled})
    if settings.speed_seconds:
        say(f"timing {folder.name} and the student in turns")
        timed = _speed(scene, source_of(scene, folder))
        result = result.model_copy(update={"speed": timed})
    return result


@dataclass(frozen=True)
class _Beside:
    """A model in few bits on the held-out documents."""

    teacher: Fidelity
    student: Fidelity


def _measured(
    scene: Scene, folder: Path, student: PreTrainedModel, trained: Fidelity | None, say: Say
) -> tuple[QuantizedResult, _Beside | None]:
    """What one model in few bits is: its size, and what it is worth beside teacher and student."""
    scheme, seed = scene.recipe.quantize, scene.recipe.seed
    if scheme is None:
        raise ValueError("the recipe quantises nothing")
    few = hub.load_model(source_of(scene, folder), scene.folder)
    move(few, scene.parallel.device)
    facts = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    result = QuantizedResult(
        name=folder.name,
        scheme=str(scheme),
        layers=facts["layers"],
        kept=facts["kept"],
        bits_per_weight=facts["bits_per_weight"],
        # Parameters and arithmetic are the student's: stored otherwise, and not fewer.
        size=size(student).model_copy(
            update={"bytes_on_disk": bytes_on_disk(folder), "dtype": scheme.scheme}
        ),
        training=facts.get("training"),
    )
    if trained is None:
        return result, None
    say(f"measuring {folder.name} on the held-out documents")
    own = fidelity_of(scene, few)
    beside = fidelity_of(scene, few, LocalTeacher(student, scene.vocabulary, scene.packed))
    loss, whole = beside.per_token("student_nll"), beside.per_token("teacher_nll")
    update = {
        "to_teacher": own.student(seed),
        "to_student": beside.student(seed),
        "change": changes(own, trained, seed=seed),
        "perplexity_ratio": perplexity_ratio(loss, whole, seed=seed),
    }
    return result.model_copy(update=update), _Beside(own, beside)


def _over(scene: Scene, after: _Beside, plain: _Beside) -> OverRounded:
    """What training in few bits brought, paired by document."""
    seed, loss = scene.recipe.seed, "student_nll"
    return OverRounded(
        to_teacher=changes(after.teacher, plain.teacher, seed=seed),
        to_student=changes(after.student, plain.student, seed=seed),
        perplexity_ratio=perplexity_ratio(
            after.student.per_token(loss), plain.student.per_token(loss), seed=seed
        ),
    )


def _speed(scene: Scene, source: ModelSource) -> Speed:
    """The student, and the student in few bits, in turns; both in bfloat16, and as saved."""
    sources = {
        name: of.model_copy(update={"dtype": "bfloat16"})
        for name, of in (("teacher", source_of(scene, scene.run.student)), ("student", source))
    }
    models = {name: hub.load_model(of, scene.folder) for name, of in sources.items()}
    for model in models.values():
        move(model, scene.parallel.device)
    settings = scene.recipe.evaluate
    timed = speed(
        models["teacher"], models["student"], seconds=settings.speed_seconds,
        seed=scene.recipe.seed, batch_sizes=settings.batch_sizes,
    )  # fmt: skip
    memory, left_out = footprints(sources, models, scene.folder)
    return timed.model_copy(update={"memory_gib": memory, "left_out": (*timed.left_out, *left_out)})


def save_quantized(
    found: Quantized, tokenizer: PreTrainedTokenizerBase, folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write a quantised model into a folder, prove that it loads as what it is, and say so there.

    Args:
        found: the model.
        tokenizer: what belongs to it.
        folder: where to.
        facts: what else quantization.json says.

    Raises:
        NexusError: loaded again it gives other logits.
    """
    hub.save(found.model, tokenizer, folder)
    scale: Any = found.model.get_submodule(found.layers[0]).weight_scale
    facts = facts | {
        "scheme": found.scheme.scheme,
        "group_size": found.scheme.group or "row",
        "symmetric": found.scheme.symmetric,
        "bits_per_weight": round(found.scheme.bits_per_weight(8 * scale.itemsize), 3),
        "layers": len(found.layers),
        "kept": found.kept,
        "bytes": bytes_on_disk(folder),
        "proofs": [_saved(found.model, folder)],
    }
    durable.write(folder / FILE_NAME, json.dumps(facts, indent=1) + "\n")
    return facts


@torch.no_grad()
def _saved(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """What was saved is loaded as what it was, bit for bit."""
    saved = ModelSource(model=str(folder.resolve()), dtype="auto")
    again = hub.load_model(saved, Path(), encoders=True)
    nn.Module.to(again, model.device)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    with evaluated(model), evaluated(again):
        one, other = (each(input_ids=ids).logits.float() for each in (model, again))
    difference = float((one - other).abs().max().nan_to_num(nan=torch.inf))
    name = "saved and loaded it gives the same logits"
    limit = loaded_apart(again, one)
    if difference > limit:
        raise NexusError(
            f"Quantising proved wrong: {name}: they differ by {difference:.2g}. Report this with "
            "the model's configuration"
        )
    return {"name": name, "outcome": "proved", "value": difference, "limit": limit}
