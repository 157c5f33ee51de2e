"""Examination: which models are measured on what, as a user asked or as a run's recipe says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from nexus import durable
from nexus.candidates import Candidate, candidate
from nexus.compatibility import trusts_code
from nexus.data.chat import SpecialTokens
from nexus.data.faults import OnBadRow
from nexus.data.packing import OverLong
from nexus.data.sources import AnySource, Jsonl, LocalDataset, Parquet
from nexus.durable import Damaged
from nexus.errors import UsageError
from nexus.evaluation.speed import BATCH_SIZES
from nexus.evaluation.tasks import AnyTask
from nexus.evaluation.tasks.detection import task_from_file
from nexus.evaluation.tasks.task import TaskSpec
from nexus.hub import Dtype, ModelSource
from nexus.measuring import KEPT, is_trained_on
from nexus.recipe.load import load
from nexus.recipe.schema import Recipe
from nexus.spec import Spec
from nexus.students.pruned import Pruned

SEQUENCE_LENGTH = 512
"""Positions of a row, unless models take fewer."""


@dataclass(frozen=True)
class Request:
    """What a user asks for. Paths are relative to the working directory.

    What is None is as the recipe of a run says, or as recipes have it by default.
    """

    model: str
    teacher: str | None = None
    text: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    speed_seconds: float = 20.0
    batch_sizes: tuple[int, ...] | None = None
    rollouts: int | None = None
    dtype: Dtype = "float32"
    sequence_length: int | None = None
    output: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """How text becomes rows."""

    length: int | None = None
    packing: bool = True
    over_long: OverLong = "split"
    on_bad_row: OnBadRow = "error"
    special_tokens: SpecialTokens = "escape"
    rows: int = 1


@dataclass(frozen=True)
class Examination:
    """All that is to be measured, with nothing loaded yet."""

    model: Candidate
    teacher: Candidate | None = None
    sources: tuple[AnySource, ...] = ()
    text_folder: Path = Path()
    reading: Reading = Reading()
    tasks: tuple[AnyTask, ...] = ()
    tasks_folder: Path = Path()
    trained_on: Callable[[TaskSpec], bool] = lambda task: False
    autocast: torch.dtype | None = None
    run: Path | None = None
    output: Path | None = None
    """Where a run keeps what is measured of it."""
    speed_seconds: float = 0.0
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    rollouts: int = 8
    rollout_tokens: int = 64
    seed: int = 0


class TaskList(Spec):
    """A YAML file of tasks, as `evaluate.tasks` of a recipe has them."""

    tasks: tuple[AnyTask, ...]


def examination(request: Request, like: Examination | None = None) -> Examination:
    """What a request comes to.

    Args:
        request: what was asked for.
        like: another one, whose text and tasks are taken where the request and its run name none.

    Raises:
        UsageError: a number means nothing, a file is missing or is no list of tasks, or a run has
            no student yet.
    """
    _refuse_numbers(request)
    run = Path(request.model)
    is_run = (run / "recipe.yaml").is_file()
    asked = _of_run(run) if is_run else Examination(candidate(request.model, request.dtype))
    if like is not None and not asked.sources:
        asked = replace(
            asked, sources=like.sources, text_folder=like.text_folder, reading=like.reading
        )
    if like is not None and not asked.tasks:
        asked = replace(asked, tasks=like.tasks, tasks_folder=like.tasks_folder)
    if request.teacher is not None:
        asked = replace(asked, teacher=candidate(request.teacher, request.dtype))
    if request.text:
        sources = tuple(source(path) for path in request.text)
        asked = replace(asked, sources=sources, text_folder=Path(), reading=Reading())
    if request.sequence_length is not None:
        asked = replace(asked, reading=replace(asked.reading, length=request.sequence_length))
    if request.tasks:
        listed = tuple(task for name in request.tasks for task in tasks(name))
        asked = replace(asked, tasks=listed, tasks_folder=Path())
    if request.limit is not None:
        limited = (each.model_copy(update={"limit": request.limit}) for each in asked.tasks)
        asked = replace(asked, tasks=tuple(limited))
    _refuse_same_names(asked.tasks)
    if request.rollouts and (asked.teacher is None or not asked.sources):
        raise UsageError(
            f"--rollouts is {request.rollouts}, but there is no "
            f"{'teacher' if asked.teacher is None else 'text'}: what a model writes is begun by a "
            "text and compared with a teacher. Give both with --text and --teacher, or leave "
            "--rollouts out"
        )
    return replace(
        asked,
        speed_seconds=request.speed_seconds,
        batch_sizes=request.batch_sizes or asked.batch_sizes,
        rollouts=asked.rollouts if request.rollouts is None else request.rollouts,
        seed=request.seed if not is_run else asked.seed,
    )


def source(path: str) -> AnySource:
    """Text that a path names: JSONL, parquet, or a data set's directory."""
    if Path(path).is_dir():
        return LocalDataset(path=path)
    return Parquet(path=path) if path.endswith(".parquet") else Jsonl(path=path)


def tasks(name: str) -> tuple[AnyTask, ...]:
    """The task of a JSONL file, those of a YAML file, or one that lm-eval knows by name.

    Raises:
        UsageError: there is no such file, or what is in it is no task.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _listed(path)
    if path.suffix == ".jsonl" or path.exists():
        return (task_from_file(name),)
    return TaskList.parse({"tasks": [{"kind": "lm_eval", "name": name}]}, "--tasks").tasks


def _listed(path: Path) -> tuple[AnyTask, ...]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--tasks {path} cannot be read ({error.strerror}). Name a file") from None
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"--tasks {path} is not valid YAML: {said}") from None
    listed = values.get("tasks") if isinstance(values, dict) else values
    if not isinstance(listed, list) or not listed:
        raise UsageError(
            f"--tasks {path} holds no list of tasks. Write one mapping a task, such as "
            "- {kind: choice, path: questions.jsonl}"
        )
    found = TaskList.parse({"tasks": listed}, str(path)).tasks
    return tuple(_relative_to(path.parent, task) for task in found)


def _relative_to(folder: Path, task: AnyTask) -> AnyTask:
    """Paths in a file are relative to it."""
    named = task.model_dump(include={"path", "examples", "include_path"}, exclude_none=True)
    moved = {key: str(folder / Path(path).expanduser()) for key, path in named.items()}
    return task.model_copy(update=moved)


def _refuse_numbers(request: Request) -> None:
    """Numbers of which there can be no fewer; 0 is what leaves a part out."""
    least = [
        ("--limit", request.limit, 1),
        *(("--batch-sizes", size, 1) for size in request.batch_sizes or ()),
        ("--speed-seconds", request.speed_seconds, 0),
        ("--rollouts", request.rollouts, 0),
        ("--sequence-length", request.sequence_length, 2),
    ]
    for option, value, smallest in least:
        if value is not None and not smallest <= value < math.inf:
            raise UsageError(f"{option} is {value:g}: give {smallest} or more")


def _refuse_same_names(listed: tuple[AnyTask, ...]) -> None:
    names = [task.name for task in listed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two tasks are called '{twice}'. List them in a YAML file and give each a name of "
            "its own, as in - {kind: choice, path: questions.jsonl, name: easy}"
        )


def _of_run(run: Path) -> Examination:
    recipe = load(run / "recipe.yaml")
    if recipe.output != ".":
        raise UsageError(
            f"{run} holds a recipe and no run, which would be in {run / recipe.output}. Name that, "
            "or a model"
        )
    student = run / "student"
    try:
        durable.verify(student)
    except Damaged as damage:
        why = f"its student is damaged ({damage})" if student.exists() else "it has no student yet"
        raise UsageError(
            f"{run} is a run, but {why}. Run the same `nexus distill` again, which goes on with "
            "it; or name a model"
        ) from None
    data, last = recipe.data, recipe.all_stages[-1].train
    trained = ModelSource(model="student", trust_remote_code=trusts_code(recipe))
    model = Candidate(str(run), trained, run)
    fewer = isinstance(recipe.student, Pruned) and recipe.student.vocabulary is not None
    return Examination(
        model=model,
        teacher=Candidate(_shown(recipe), recipe.teacher, run, model if fewer else None),
        sources=data.heldout,
        text_folder=run,
        reading=Reading(
            data.sequence_length,
            data.packing,
            data.over_long,
            data.on_bad_row,
            data.special_tokens,
            recipe.all_stages[0].train.micro_batch_rows,
        ),
        tasks=recipe.evaluate.tasks,
        tasks_folder=run,
        trained_on=lambda task: is_trained_on(task, recipe, run),
        autocast=None if last.precision == "fp32" else torch.bfloat16,
        run=run,
        output=run / KEPT,
        batch_sizes=recipe.evaluate.batch_sizes,
        rollouts=recipe.evaluate.rollouts,
        rollout_tokens=recipe.evaluate.rollout_tokens,
        seed=recipe.seed,
    )


def _shown(recipe: Recipe) -> str:
    return str(recipe.teacher.gguf_file or Path(recipe.teacher.model).name)
