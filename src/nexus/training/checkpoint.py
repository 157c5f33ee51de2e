"""Checkpoints: complete or absent, verified, the newest good one used; never a pickle.

What is in one:

    MANIFEST.json            sizes and SHA-256 of the files below
    state.json               format, stage, step, place in data and metrics, optimiser groups, extra
    student.safetensors      weights and buffers, tied ones once     (or shards of them)
    optimizer.safetensors    the optimiser's moments                 (or shards of them)
    random-0.safetensors     random states of each process
    teacher.safetensors      what a teacher that follows the student has come to, if it does
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nexus import durable
from nexus.disk import writing
from nexus.durable import Damaged
from nexus.errors import Interrupted, NexusError
from nexus.training.parallel import Parallel
from nexus.training.snapshot import Snapshot

Notice = Callable[[int, str, str], None]
"""Takes the step of a checkpoint that is not used, what is wrong with it, what becomes of it."""


def unheard(step: int, what: str, remedy: str) -> None:
    """Where nobody wants to know."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage of one run, in a directory of its own."""

    folder: Path
    keep: int = 2
    parallel: Parallel = Parallel()
    notice: Notice = unheard
    """Told, on the first process, of what was found damaged and what is used instead."""
    every: int = 1
    """Steps between regular checkpoints; others are left behind by stops."""

    def open(self) -> None:
        """Make the directory and remove what was being written or removed when a run died."""
        with self._together():
            if self.parallel.is_main:
                with writing(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                durable.sweep(self.folder)

    def save(self, snapshot: Snapshot) -> Path:
        """Write all that training needs to go on after the snapshot's step, then drop older ones.

        All processes call this together, and each writes what it alone has.

        Raises:
            DiskFull, DiskFault: if the disk refuses. Older checkpoints are as they were.
        """
        final = self._named(snapshot.step)
        folder = durable.aside_of(final)
        with self._together(), ExitStack() as first:
            with self._together():
                if self.parallel.is_main:
                    first.enter_context(durable.directory(final, needed=snapshot.size()))
            with self._together():
                snapshot.write(folder)
        with self._together():
            if self.parallel.is_main:
                durable.verify(final)
                self._prune(snapshot.step)
        return final

    def newest(self, *, regular: bool = False) -> Path | None:
        """The checkpoint of the highest step that is as it was written. For one process alone.

        What is damaged is put aside under another name.

        Args:
            regular: look at none that a stop left behind, so that a run which was stopped goes back
                to where an undisturbed one would have.

        Raises:
            DiskFault: if the disk cannot be read, which is no damage.
        """
        for path in sorted(self._all(), key=_step_of, reverse=True):
            if regular and _step_of(path) % self.every:
                continue
            try:
                durable.verify(path)
            except Damaged as damage:
                self._put_aside(path, damage)
                continue
            return path
        return None

    def newest_together(self, *, regular: bool = False) -> Path | None:
        """`newest`, looked for by the first process and known to all."""
        step = torch.zeros((), dtype=torch.int64, device=self.parallel.device)
        with self._together():
            newest = self.newest(regular=regular) if self.parallel.is_main else None
            if newest is not None:
                step += 1 + _step_of(newest)
        found = int(self.parallel.total(step))
        return self._named(found - 1) if found else None

    def restore(self, snapshot: Snapshot, *, regular: bool = False) -> Path | None:
        """Put the newest good checkpoint into the snapshot, on all processes together.

        What a save did not come to drop before it died is dropped, but when going back.

        Args:
            snapshot: what to put it into.
            regular: as for `newest`.

        Returns:
            Where it came from; nothing, and the snapshot is as it was, if there is none.

        Raises:
            NexusError: if the checkpoint is of another student, optimiser or version.
        """
        while (path := self.newest_together(regular=regular)) is not None:
            apply, damage = _read(snapshot, path)
            if not self.parallel.any(damage is not None):
                apply()
                with self._together():
                    if self.parallel.is_main and not regular:
                        self._prune(_step_of(path))
                return path
            with self._together():
                if self.parallel.is_main:
                    self._put_aside(path, damage or Damaged(f"{path} cannot be read elsewhere"))
        return None

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What fails in one process fails in all, so that none waits for ever."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if not self.parallel.any(failure is not None):
            return
        resumable = self.parallel.any(isinstance(failure, Interrupted))
        if failure is not None:
            raise failure
        message = "another process could not go on with the checkpoint, and says why"
        raise Interrupted(message) if resumable else NexusError(message)

    def _prune(self, step: int) -> None:
        """Keep the last ones up to `step`. A later one is of a future that is not to be.

        The last regular one stays in any case: it is the one to go back to.
        """
        steps = sorted(s for s in map(_step_of, self._all()) if s <= step)
        kept = steps[-self.keep :] + [s for s in steps if s % self.every == 0][-1:]
        for path in self._all():
            if _step_of(path) not in kept:
                durable.remove(path)

    def _put_aside(self, path: Path, damage: Damaged) -> None:
        put = durable.quarantine(path)
        self.notice(
            _step_of(path),
            f"a checkpoint is damaged and not used: {damage}",
            f"It is kept as {put.name}, which may be deleted. The run goes on from the one before "
            "it, or from where the stage began",
        )

    def _named(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _all(self) -> list[Path]:
        named = (path for path in self.folder.glob("step-*") if path.name[5:].isdecimal())
        return [path for path in named if path == self._named(_step_of(path))]


def _read(snapshot: Snapshot, path: Path) -> tuple[Callable[[], None], Damaged | None]:
    try:
        return snapshot.read(path), None
    except Damaged as damage:
        return (lambda: None), damage


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
