"""Everything a run has loaded, checked against each other before the first step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nexus import fingerprint, hub
from nexus.batch import Batch
from nexus.compatibility import (
    padding_noticed,
    refuse_other_template,
    require_calibration,
    strangers,
)
from nexus.data import rejected
from nexus.data.loader import Batches
from nexus.data.loader import load as load_data
from nexus.environment import describe, hardware, libraries
from nexus.evaluation.tasks.running import facts
from nexus.identity import Identity
from nexus.kernels.lm_head import head_rows, prove, split_head
from nexus.narrowing import fewer_tokens, narrowed_teacher
from nexus.objectives.weighted_sum import WeightedSum
from nexus.products import WORTH_SAYING, bf16_over_fp32
from nexus.pruning.target import Types
from nexus.pruning.vocabulary import Vocabulary
from nexus.quantized_teacher import in_few_bits
from nexus.recipe.schema import Recipe, Stage
from nexus.results import Size
from nexus.rundir import RunDirectory
from nexus.teachers.local import LocalTeacher
from nexus.tokenizers import compare_tokenizers, shared_vocabulary, template_difference
from nexus.training.fsdp import Sharded
from nexus.training.parallel import Parallel
from nexus.training.prepare import COMPILE_FROM, can_compile, compiles
from nexus.training.settings import TrainSpec
from nexus.voice import Say
from nexus.window import context_limit

CALIBRATION_TOKENS = 8_000
"""How much training text the choice of layers looks at."""

PRUNING = "pruning"
"""Where in a run's directory the scores lie that its student was cut by, and what was decided."""


@dataclass(frozen=True)
class Models:
    """Models that are already in memory, in place of those that the recipe names."""

    teacher: PreTrainedModel
    student: PreTrainedModel | None
    """None: it is cut out of the teacher, as the recipe says."""
    tokenizer: PreTrainedTokenizerBase

    @property
    def given(self) -> tuple[PreTrainedModel, ...]:
        """Those that are there."""
        return (self.teacher,) if self.student is None else (self.teacher, self.student)


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
    in_memory: bool = False
    """Whether teacher and student were given, and the recipe names them only."""
    narrowed_from: Size | None = None
    """How large the teacher is with all its tokens, where it works with fewer."""
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
        configs = configurations(recipe, folder, models)
        read = partial(
            load_batches, recipe, recipe.all_stages[0], folder, parallel=parallel,
            directory=directory, context_limit=context_limit(*configs),
        )  # fmt: skip
        tokenizer, batches, fewer = read_text(recipe, folder, models, configs[0], read, say)
        for task in recipe.evaluate.tasks:
            facts(task, folder)  # a mistake in one shows before hours are spent
    if parallel.is_main:
        identity.confirm(machine(parallel), made_of(recipe, folder, models, tokenizer, batches))
    say(f"loading the teacher {recipe.teacher.model}")
    teacher_model = models.teacher if models else hub.load_model(recipe.teacher, folder)
    move(teacher_model, parallel.device)
    say(f"making the student ({recipe.student.kind})")
    narrowed = narrowed_teacher(recipe, teacher_model, fewer)
    cut_from = (narrowed.recipe, folder, narrowed.teacher, batches, parallel, directory, say)
    student = (models.student if models else None) or make_student(*cut_from)
    rows = (head_rows(narrowed.teacher), head_rows(student))
    vocabulary, notice = shared_vocabulary(tokenizer, *rows)
    teacher = LocalTeacher(narrowed.teacher, vocabulary, recipe.data.packing)
    move(student, parallel.device)
    teacher, thrift = thrifty(recipe, teacher, batches, tokenizer, parallel, say)
    for model in (teacher.pretrained, student):
        prove(split_head(model, vocabulary, recipe.data.packing))
    if notice:
        notice += f" {padding_noticed(teacher, student, next(beginning_on(batches, parallel, 1)))}"
    require_signals(recipe, teacher)
    strange = [] if models else strangers(recipe, folder)
    scene = Scene(
        recipe, directory, folder, parallel, teacher, student, tokenizer, batches,
        context_limit(*configs), [*strange, *filter(None, (narrowed.notice, notice, thrift))],
        in_memory=models is not None, narrowed_from=narrowed.whole,
    )  # fmt: skip
    scene.recipe = settle(scene, say)
    if parallel.is_main:
        record(scene, identity, models)
    return scene


def machine(parallel: Parallel) -> dict[str, Any]:
    """What the run's numbers depend on besides what it is made of."""
    return {**libraries(), "hardware": hardware(parallel)}


def require_signals(recipe: Recipe, teacher: LocalTeacher) -> None:
    """Make sure that the teacher reveals what the objectives of all stages need."""
    for stage in recipe.all_stages:
        WeightedSum(stage.objectives).require(teacher.provides, recipe.teacher.kind)


def read_text(
    recipe: Recipe,
    folder: Path,
    models: Models | None,
    config: PreTrainedConfig,
    read: Callable[..., Batches],
    say: Say,
) -> tuple[PreTrainedTokenizerBase, Batches, Vocabulary | None]:
    """The tokenizer and the text, and which tokens are left where the student has fewer."""
    tokenizer = models.tokenizer if models else load_tokenizers(recipe, folder)
    batches = read(tokenizer=tokenizer)
    given = models is not None and models.student is not None
    require_calibration(recipe, batches, given=given)
    if given:
        return tokenizer, batches, None
    there = models.teacher if models else None
    fewer = fewer_tokens(recipe, config, tokenizer, batches, folder, there)
    if fewer is None:
        return tokenizer, batches, None
    say(f"tokenising data again, with {len(fewer.ids):,} tokens")
    return fewer.tokenizer, read(tokenizer=fewer.tokenizer), fewer


def thrifty(
    recipe: Recipe,
    teacher: LocalTeacher,
    batches: Batches,
    tokenizer: PreTrainedTokenizerBase,
    parallel: Parallel,
    say: Say,
) -> tuple[LocalTeacher, str]:
    """The teacher in as few bits as the recipe wants, and what that costs, in a sentence."""
    if (scheme := recipe.teacher.scheme) is None:
        return teacher, ""
    say(f"quantising the teacher: {scheme}")
    model, thrift = in_few_bits(
        teacher, scheme, partial(beginning_on, batches, parallel), tokenizer,
        compared=parallel.is_main,
    )  # fmt: skip
    say(thrift)
    return LocalTeacher(model, teacher.vocabulary, recipe.data.packing), thrift


def beginning_on(batches: Batches, parallel: Parallel, tokens: int) -> Iterator[Batch]:
    """The first training text, where the models are; alike on all ranks."""
    return (batch.to(parallel.device) for batch in batches.beginning(tokens))


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
        if models.student is not None:
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
    trains = [stage.train for stage in recipe.all_stages]
    warn_of_bf16(trains, student.num_parameters(), scene.parallel.device, say)
    if recipe.train is not None:
        return recipe.model_copy(update={"train": decided(recipe.train, student)})
    # What becomes of a student that is cut later is decided when it is.
    cuts = (number for number, stage in enumerate(recipe.stages) if stage.student is not None)
    first_cut = next(cuts, len(recipe.stages))
    stages = [
        stage.model_copy(update={"train": decided(stage.train, student)})
        if number < first_cut
        else stage
        for number, stage in enumerate(recipe.stages)
    ]
    return recipe.model_copy(update={"stages": tuple(stages)})


def warn_of_bf16(
    trains: Sequence[TrainSpec], parameters: int, device: torch.device, say: Say
) -> None:
    """Say so if the products of a training that takes a while would be faster in fp32."""
    half = any(train.precision != "fp32" for train in trains)
    slower = bf16_over_fp32(device) if half and parameters >= COMPILE_FROM else 1.0
    if slower > WORTH_SAYING:
        say(
            f"bf16 takes {slower:.1f} times as long as fp32 on this processor: train.precision: "
            "fp32 and teacher.dtype: float32 are faster, if they fit in memory"
        )


def decided(train: TrainSpec, student: PreTrainedModel) -> TrainSpec:
    return train.model_copy(update={"compile": compiles(train, student)})


def record(scene: Scene, identity: Identity, models: Models | None) -> None:
    """What the run is made of and what changed, first; then the recipe that it goes on with."""
    known = models_of(scene.recipe, scene.folder, models, identity.fingerprints)
    identity.confirm({}, known)
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
        return tuple(model.config for model in models.given)
    teacher = hub.load_config(recipe.teacher, folder)
    match recipe.student.kind:
        case "pretrained":
            return teacher, hub.load_config(recipe.student, folder)
        case "scratch":
            return teacher, hub.read_config(folder / recipe.student.config.expanduser())
        case "layers" | "pruned":
            return (teacher,)


def make_student(
    recipe: Recipe,
    folder: Path,
    teacher: PreTrainedModel,
    batches: Batches,
    parallel: Parallel,
    directory: RunDirectory,
    say: Say,
) -> PreTrainedModel:
    """The student with which a run begins.

    One that is pruned is decided on by the first process, and the others follow.
    """
    student = recipe.student
    if student.kind != "pruned":
        looked_at = (batch.to(parallel.device) for batch in batches.beginning(CALIBRATION_TOKENS))
        return student.build(teacher, looked_at, folder, recipe.seed)
    text = [batch.to(parallel.device) for batch in batches.beginning(student.tokens)]
    workspace, types = directory.path / PRUNING, Types(saved=recipe.saved_in(0))
    if parallel.world > 1:
        with parallel.alone() as alone:
            if alone:
                student.build(teacher, text, folder, recipe.seed, workspace, say, types)
        return student.build(teacher, text, folder, recipe.seed, workspace, types=types)
    return student.build(teacher, text, folder, recipe.seed, workspace, say, types)


def stage_batches(scene: Scene, number: int) -> Batches:
    """All batches in steps of a stage's own size, of which it skips the first."""
    if number == 0:
        return scene.batches
    return load_batches(
        scene.recipe, scene.recipe.all_training[number], scene.folder, scene.tokenizer,
        scene.context_limit, scene.parallel, scene.run,
    )  # fmt: skip


def move(model: torch.nn.Module, device: torch.device) -> None:
    model.to(device)
