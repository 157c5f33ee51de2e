"""Everything a run has loaded, checked against each other before the first step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nexus import fingerprint, hub
from nexus.batch import Batch
from nexus.compatibility import padding_noticed, refuse_other_template, strangers
from nexus.data import rejected
from nexus.data.loader import Batches
from nexus.data.loader import load as load_data
from nexus.environment import describe, hardware, libraries
from nexus.identity import Identity
from nexus.kernels.lm_head import head_rows, prove, split_head
from nexus.objectives.weighted_sum import WeightedSum
from nexus.recipe.schema import Recipe, Stage
from nexus.rundir import RunDirectory
from nexus.teachers.local import LocalTeacher
from nexus.tokenizers import compare_tokenizers, shared_vocabulary, template_difference
from nexus.training import loop
from nexus.training.fsdp import Sharded
from nexus.training.parallel import Parallel
from nexus.training.prepare import can_compile, compiles
from nexus.training.settings import TrainSpec

CALIBRATION_TOKENS = 8_000
"""How much training text the choice of layers looks at."""

Say = Callable[[str], None]


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
    sharded_teacher: Sharded | None = None
    """While the teacher's weights are shared out over the processes: how to get them back."""

    @property
    def vocabulary(self) -> int:
        return self.teacher.vocabulary

    @property
    def packed(self) -> bool:
        return self.recipe.data.packing


def load(
    recipe: Recipe,
    directory: RunDirectory,
    folder: Path,
    parallel: Parallel,
    models: Models | None,
    say: Say,
    allow_changed: Collection[str] = (),
) -> Scene:
    """Teacher, tokenizer, data and student, checked against each other and proved to fit.

    Mistakes in names, tokenizers and data show before any weights are loaded.
    """
    torch.manual_seed(recipe.seed)
    identity = Identity(directory, recipe, folder, allow_changed, named=models is None)
    say("reading and tokenising data")
    with identity.named_along():
        tokenizer = models.tokenizer if models else load_tokenizers(recipe, folder)
        limit = context_limit(configurations(recipe, folder, models))
        batches = load_batches(
            recipe, recipe.all_stages[0], folder, tokenizer, limit, parallel, directory
        )
    if parallel.is_main:
        facts = {**libraries(), "hardware": hardware(parallel)}
        identity.confirm(facts, made_of(recipe, folder, models, tokenizer, batches))
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
    if notice:
        notice += f" {padding_noticed(teacher, student, batches.take(0)[0].to(parallel.device))}"
    for stage in recipe.all_stages:
        WeightedSum(stage.objectives).require(teacher.provides, recipe.teacher.kind)
    scene = Scene(
        recipe, directory, folder, parallel, teacher, student, tokenizer, batches,
        limit, [*([] if models else strangers(recipe, folder)), *([notice] if notice else [])],
    )  # fmt: skip
    scene.recipe = settle(scene, say)
    if parallel.is_main:
        identity.confirm({}, models_of(recipe, folder, models, identity.fingerprints))
        record(scene, identity)
    return scene


def made_of(
    recipe: Recipe,
    folder: Path,
    models: Models | None,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
) -> dict[str, str | None]:
    """The fingerprints of everything that decides what becomes of the student."""
    return {
        **models_of(recipe, folder, models),
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat_template": fingerprint.of_chat_template(tokenizer),
        "data": batches.fingerprint,
    }


def models_of(
    recipe: Recipe, folder: Path, models: Models | None, known: Collection[str] = ()
) -> dict[str, str | None]:
    """The fingerprints of teacher and student; None for one that is still to be downloaded.

    Those of `known` are left out.
    """
    ways: dict[str, Callable[[], str | None]] = {}
    if models:
        ways["teacher"] = partial(fingerprint.of_model, models.teacher)
        ways["student"] = partial(fingerprint.of_model, models.student)
    else:
        ways["teacher"] = partial(fingerprint.of_source, recipe.teacher, folder)
        match recipe.student.kind:
            case "pretrained":
                ways["student"] = partial(fingerprint.of_source, recipe.student, folder)
            case "scratch":
                place = folder / recipe.student.config.expanduser()
                ways["student"] = partial(fingerprint.of_config, place)
    return {name: way() for name, way in ways.items() if name not in known}


def settle(scene: Scene, say: Say) -> Recipe:
    """The recipe in which every `auto` is what it comes to with these models on this machine."""
    teacher, student = scene.teacher.pretrained, scene.student
    recipe = scene.recipe
    held = str(teacher.dtype).removeprefix("torch.")
    if recipe.teacher.dtype == "auto":
        recipe = recipe.model_copy(
            update={"teacher": recipe.teacher.model_copy(update={"dtype": held})}
        )
    undecided = any(stage.train.compile == "auto" for stage in recipe.all_stages)
    if undecided and not can_compile(scene.parallel.device):
        say("no C++ compiler with Python's headers was found: nothing is compiled, and slower")
    if recipe.train is not None:
        return recipe.model_copy(update={"train": decided(recipe.train, student)})
    stages = [
        stage.model_copy(update={"train": decided(stage.train, student)}) for stage in recipe.stages
    ]
    return recipe.model_copy(update={"stages": tuple(stages)})


def decided(train: TrainSpec, student: PreTrainedModel) -> TrainSpec:
    return train.model_copy(update={"compile": compiles(train, student)})


def record(scene: Scene, identity: Identity) -> None:
    """What the run is made of and what changed, first; then the recipe that it goes on with."""
    facts = describe(
        scene.parallel, scene.recipe.seed, identity.fingerprints, scene.batches,
        [*dict.fromkeys([*identity.notices, *scene.notices])], identity.changes,
    )  # fmt: skip
    scene.run.write_json("environment.json", facts)
    scene.run.write_recipe(scene.recipe, scene.folder)


def load_batches(
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    context_limit: int | None,
    parallel: Parallel,
    directory: RunDirectory,
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
        rejected=directory.path / rejected.FILE_NAME if parallel.is_main else None,
    )


def load_tokenizers(recipe: Recipe, folder: Path) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, which must be the student's too if that has one of its own."""
    tokenizer = hub.load_tokenizer(recipe.teacher, folder)
    if recipe.student.kind == "pretrained":
        own = hub.load_tokenizer(recipe.student, folder)
        compare_tokenizers(tokenizer, own, roles=recipe.student.tokenizer == "own")
        refuse_other_template(recipe, folder, template_difference(tokenizer, own))
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
        recipe, stage, scene.folder, scene.tokenizer, scene.context_limit, scene.parallel,
        scene.run,
    )  # fmt: skip
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
