"""One trial: a run is disturbed, the same command is given again, and the outcome compared."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path

from torture.operations import Fault, Operation, Watch
from torture.outcome import differences, outcome
from torture.server import Child, Ended
from torture.subject import OUTPUT, distil


@dataclass(frozen=True)
class Result:
    """What became of one trial."""

    kind: str
    number: int
    struck: bool
    """Whether the fault came while the run was under way, not after its end."""
    problem: str = ""
    resumed: bool | None = True
    """Whether the same command went on to the end; None where it was not given."""
    identical: bool | None = True


@dataclass(frozen=True)
class Kind:
    """A way to disturb a run, in numbered ways."""

    name: str
    title: str
    few: int
    """How many points of a round of 40 are of this kind."""
    count: Callable[[Bench], int]
    """How many points there are at full size."""
    attempt: Callable[[Trial], Result]


@dataclass
class Bench:
    """What all trials share."""

    root: Path
    seed: int
    keep: bool = False
    """Whether to keep the folders of good trials too."""
    thorough: bool = True
    """Whether all points are tried."""
    recipe: Path = Path()
    seconds: float = 1.0
    """How long an undisturbed run computes."""
    reference: Mapping[str, str] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    recovery: list[Operation] = field(default_factory=list)
    """Those of a run that goes on after a kill in a save, its newest checkpoint damaged."""
    interrupted: Path | None = None
    """A folder whose run was killed, and holds two checkpoints of a stage."""
    damaged: Path | None = None
    """The same, the newest of them a byte short."""
    two_seconds: float = 1.0
    two_reference: Mapping[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """What this machine cannot do, and why; by name of the kind that needs it."""
    failures: list[str] = field(default_factory=list)
    """What went wrong before the first trial."""


class Trial:
    """One point: a folder of its own, its own random numbers, and the commands given in it."""

    def __init__(self, bench: Bench, kind: str, number: int) -> None:
        self.bench, self.kind, self.number = bench, kind, number
        self.random = random.Random(f"{bench.seed}/{kind}/{number}")
        self.folder = bench.root / f"{kind}-{number}"
        self.place = self.folder / "place"
        """Where the recipe lies, and the run beside it."""
        self._commands = 0
        self.begin()

    @property
    def run(self) -> Path:
        return self.place / OUTPUT

    def begin(self, like: Path | None = None) -> None:
        """An empty place, or one like another."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if like is not None:
            shutil.copytree(like, self.place, symlinks=True)
            return
        self.place.mkdir()
        self.put_recipe()

    def put_recipe(self) -> None:
        shutil.copy(self.bench.recipe, self.place / self.bench.recipe.name)

    def command(
        self,
        fault: Fault | None = None,
        *,
        before: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
        note: Path | None = None,
    ) -> Child:
        """Give the command: the same each time.

        Args:
            fault: what happens at one of its file operations.
            before: done in the new process before anything else.
            environment: added to that of this process.
            note: where to write down every file operation.
        """
        work = distil(self.place / self.bench.recipe.name)

        def watched() -> int:
            before()
            watch = Watch(self.place, fault)
            if fault or note:
                watch.install()
            code = 1
            try:
                code = work()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if note:
                rows = [astuple(one) for one in watch.seen]
                note.write_text(json.dumps(rows))
            return code

        self._commands += 1
        said = self.folder / f"said-{self._commands}.txt"
        return Child(watched, said, environment)

    def conclude(self, problem: str = "", *, struck: bool = True) -> Result:
        """Give the command to the end and compare what comes out with an undisturbed run."""
        if problem:
            return self.failed(problem)
        return self.compare(self.command().end(), self.bench.reference, struck=struck)

    def compare(self, last: Ended, reference: Mapping[str, str], *, struck: bool = True) -> Result:
        if last.code != 0:
            return self.failed(f"did not resume: {described(last)}")
        different = differences(reference, outcome(self.run))
        if different:
            return self.failed("\n    ".join(["another outcome:", *different[:8]]), resumed=True)
        return Result(self.kind, self.number, struck)

    def failed(self, problem: str, *, resumed: bool = False) -> Result:
        """Say what went wrong; the folder is kept."""
        text = f"{self.kind}:{self.number} {problem}\n    kept in {self.folder}"
        return Result(self.kind, self.number, True, text, resumed, identical=False)


def described(ended: Ended) -> str:
    """An end in words, with the last lines that were said."""
    lines = ended.said.strip().splitlines()
    return "\n    ".join([f"exit code {ended.code} after {ended.seconds:.1f} s", *lines[-6:]])


def noted(path: Path) -> list[Operation]:
    """The file operations that a command wrote down."""
    return [Operation(*row) for row in json.loads(path.read_text())]
