"""run(recipe): load → prepare → train the stages → save → evaluate → report. READ THIS FIRST."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nexus import hub
from nexus.batch import Batch
from nexus.data.loader import Batches
from nexus.data.loader import load as load_data
from nexus.environment import describe
from nexus.errors import UsageError
from nexus.evaluation.fidelity import Fidelity, measure
from nexus.evaluation.heldout import heldout
from nexus.evaluation.samples import continuations
from nexus.evaluation.size import size
from nexus.evaluation.speed import speed
from nexus.kernels.decoder import compile_layers
from nexus.kernels.lm_head import head_rows, prove, split_head
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Recipe, Stage
from nexus.report.build import build
from nexus.report.card import model_card
from nexus.results import Evaluation, Sample, Size, Speed
from nexus.rundir import RunDirectory
from nexus.stopping import Stopping
from nexus.teachers.local import LocalTeacher
from nexus.tokenizers import compare_tokenizers, shared_vocabulary
from nexus.training import loop
from nexus.training.metrics import trackers
from nexus.training.module import DistillationModule
from nexus.training.parallel import Parallel, processes
from nexus.training.prepare import can_compile, compiles, finish, prepare

CALIBRATION_TOKENS = 8_000
"""How much training text the choice of layers looks at."""

Say = Callable[[str], None]


def _silent(text: str) -> None:
    """What the other processes say."""


@dataclass(frozen=True)
class Models:
    """Models that are already in memory, in place of those that the recipe names."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass
class Scene:
    """Everything a run has loaded: what the stages work on."""

    recipe: Recipe
    run: RunDirectory
    folder: Path
    """The recipe's folder, which relative paths are relative to."""
    parallel: Parallel
    teacher: LocalTeacher
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batches: Batches
    context_limit: int | None
    notices: list[str]

    @property
    def vocabulary(self) -> int:
        return self.teacher.vocabulary

    @property
    def packed(self) -> bool:
        return self.recipe.data.packing


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
            untrained = look_before(scene, say)
            train_stages(scene, stopping or Stopping(), say)
        except UsageError:
            withdraw(directory, parallel)
            raise
        if parallel.is_main:
            save_student(scene)
            evaluate(scene, untrained, say)
            (directory.student / "README.md").write_text(model_card(directory.path))
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


def load(
    recipe: Recipe,
    directory: RunDirectory,
    folder: Path,
    parallel: Parallel,
    models: Models | None,
    say: Say,
) -> Scene:
    """Teacher, tokenizer, data and student, checked against each other and proved to fit.

    Mistakes in names, tokenizers and data show before any weights are loaded.
    """
    torch.manual_seed(recipe.seed)
    say("reading and tokenising data")
    tokenizer = models.tokenizer if models else load_tokenizers(recipe, folder)
    limit = context_limit(configurations(recipe, folder, models))
    batches = load_batches(recipe, recipe.all_stages[0], folder, tokenizer, limit, parallel)
    say(f"loading the teacher {recipe.teacher.model}")
    teacher_model = models.teacher if models else hub.load_model(recipe.teacher, folder)
    move(teacher_model, parallel.device)
    say(f"making the student ({recipe.student.kind})")
    student = (
        models.student if models else make_student(recipe, folder, teacher_model, batches, parallel)
    )
    vocabulary, notice = shared_vocabulary(tokenizer, head_rows(teacher_model), head_rows(student))
    teacher = LocalTeacher(teacher_model, vocabulary, recipe.data.packing)
    move(student, parallel.device)
    for model in (teacher_model, student):
        prove(split_head(model, vocabulary, recipe.data.packing))
    for stage in recipe.all_stages:
        WeightedSum(stage.objectives).require(teacher.provides, recipe.teacher.kind)
    scene = Scene(
        recipe, directory, folder, parallel, teacher, student, tokenizer, batches,
        limit, [notice] if notice else [],
    )  # fmt: skip
    if parallel.is_main:
        facts = describe(parallel, recipe.seed, teacher_model, tokenizer, batches, scene.notices)
        directory.write_json("environment.json", facts)
    return scene


def load_batches(
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    context_limit: int | None,
    parallel: Parallel,
) -> Batches:
    return load_data(
        recipe.data,
        tokenizer,
        folder,
        seed=recipe.seed,
        tokens_per_step=stage.train.tokens_per_step,
        micro_batch_rows=stage.train.micro_batch_rows,
        rank=parallel.rank,
        world=parallel.world,
        context_limit=context_limit,
    )


def load_tokenizers(recipe: Recipe, folder: Path) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, which must be the student's too if that has one of its own."""
    tokenizer = hub.load_tokenizer(recipe.teacher, folder)
    if recipe.student.kind == "pretrained":
        compare_tokenizers(tokenizer, hub.load_tokenizer(recipe.student, folder))
    return tokenizer


def configurations(
    recipe: Recipe, folder: Path, models: Models | None
) -> tuple[PreTrainedConfig, ...]:
    """Those of teacher and student, without their weights."""
    if models:
        return models.teacher.config, models.student.config
    teacher = hub.load_config(recipe.teacher, folder)
    match recipe.student.kind:
        case "pretrained":
            return teacher, hub.load_config(recipe.student, folder)
        case "scratch":
            return teacher, hub.read_config(folder / recipe.student.config.expanduser())
        case "layers":
            return (teacher,)


def make_student(
    recipe: Recipe, folder: Path, teacher: PreTrainedModel, batches: Batches, parallel: Parallel
) -> PreTrainedModel:
    looked_at = calibration(batches, recipe.all_stages[0].train.tokens_per_step, parallel)
    return recipe.student.build(teacher, looked_at, folder, recipe.seed)


def train_stages(scene: Scene, stopping: Stopping, say: Say) -> None:
    """The stages one after another, each on the student that the one before left behind."""
    recipe, parallel = scene.recipe, scene.parallel
    rows_taken = 0
    for stage in recipe.all_stages:
        settings = stage.train
        model = prepare(scene.student, settings)
        fused = compiles(settings, scene.student)
        module = DistillationModule(
            model, WeightedSum(stage.objectives), scene.vocabulary,
            packed=scene.packed, fused=fused,
        )  # fmt: skip
        if fused:
            compile_layers(scene.teacher.model)
            say("compiling at the first step, which takes a while")
        elif settings.compile == "auto" and not can_compile(parallel.device):
            say("no C++ compiler with Python's headers was found: nothing is compiled, and slower")
        boards = trackers(
            settings.dashboard, scene.run.path, recipe.model_dump(mode="json"),
            is_main=parallel.is_main,
        )  # fmt: skip
        batches = stage_batches(scene, stage, rows_taken)
        work = loop.Stage(stage.name, module, scene.teacher, batches, settings, scene.run.path)
        with stopping.gently():
            loop.train(work, parallel, boards, stopping=stopping, quiet=not parallel.is_main)
        scene.student = finish(model)
        rows_taken += settings.steps * settings.tokens_per_step // recipe.data.sequence_length


def save_student(scene: Scene) -> None:
    """An ordinary checkpoint that loads with plain `from_pretrained`; whole or absent."""
    target = scene.run.student
    if target.exists():
        return
    aside = target.with_name(".student")
    shutil.rmtree(aside, ignore_errors=True)
    scene.student.config.use_cache = True
    hub.save(scene.student, scene.tokenizer, aside)
    aside.rename(target)


def look_before(scene: Scene, say: Say) -> Fidelity | None:
    """What the student is worth before its first step. Measured once, also if the run resumes."""
    file = scene.run.path / "untrained.npy"
    if not scene.recipe.data.heldout or not scene.parallel.is_main:
        return None
    if not file.exists():
        say("measuring the untrained student on the held-out documents")
        fidelity_of(scene, scene.student).save(file)
    return Fidelity.load(file)


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


def calibration(batches: Batches, tokens_per_step: int, parallel: Parallel) -> Iterator[Batch]:
    """The first training batches, about `CALIBRATION_TOKENS` of them."""
    for step in range(-(-CALIBRATION_TOKENS // tokens_per_step)):
        for batch in batches.take(step):
            yield batch.to(parallel.device)


def stage_batches(scene: Scene, stage: Stage, rows_taken: int) -> loop.BatchSource:
    """The stage's batches, which go on in the data where the stage before stopped."""
    recipe, settings = scene.recipe, stage.train
    if not rows_taken:
        return scene.batches
    batches = load_batches(
        recipe, stage, scene.folder, scene.tokenizer, scene.context_limit, scene.parallel
    )
    rows_a_step = settings.tokens_per_step // recipe.data.sequence_length
    return Later(batches, -(-rows_taken // rows_a_step))


@dataclass(frozen=True)
class Later:
    """Batches that begin `skipped` steps into the stream."""

    batches: Batches
    skipped: int

    def take(self, step: int) -> list[Batch]:
        return self.batches.take(self.skipped + step)


def context_limit(configs: Iterable[PreTrainedConfig]) -> int | None:
    """The most positions that all the models take, if any of them has such a limit."""
    limits = [getattr(one.get_text_config(), "max_position_embeddings", None) for one in configs]
    return min((int(limit) for limit in limits if limit), default=None)


def move(model: torch.nn.Module, device: torch.device) -> None:
    model.to(device)
