"""One writer a run directory: a lock that dies with its process, and says whose it is.

The lock is a file in the run directory. The system's own lock on that file tells whether the
process that wrote it is alive; what is in the file tells who it is, also to other machines, where
a network file system may not carry the system's lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus.errors import UsageError
from nexus.redaction import redacted

FILE_NAME = ".lock"
PASSED_ON = "NEXUS_LOCK"
"""Tells a process that replaced itself which open file its lock is."""

_EXITING = 0x4
"""Linux's mark of a process that is ending: giving back gigabytes takes it a while."""

PATIENCE_SECONDS = 1.5
"""How long a lock that says nothing of a living process may take to say it, or to go."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_UNKNOWN_TO_THE_FILE_SYSTEM = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
_BEGINNINGS = {FILE_NAME, "recipe.yaml", "rejected.jsonl", "pruning"}
"""What a run has written before it knows what it is made of."""
_RECORDS = {"environment.json", "metrics.jsonl", "evaluation.json", "report.html"}
"""What only runs write."""
_ASIDE = re.compile(r"\.(tmp|del)-")


class Busy(UsageError):
    """Another process writes into the directory."""


@dataclass(frozen=True)
class Holder:
    """The process that writes into a run directory."""

    host: str
    pid: int
    boot: str
    """Names this start of the machine: after the next, its processes are gone."""
    started: int
    """Clock ticks from that start to the process's own: tells two processes of one id apart."""
    command: str
    since: str
    """For people. Nothing is decided by what a clock on the wall says."""

    @classmethod
    def this_process(cls) -> Self:
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            pid=pid,
            boot=_boot(),
            started=_started(pid) or 0,
            command=redacted(" ".join(sys.argv))[:200],
            since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )

    @property
    def is_of_this_machine(self) -> bool:
        return self.boot == _boot() != "" or self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it runs on this machine."""
        return self.boot == _boot() and _started(self.pid) == self.started

    def __str__(self) -> str:
        words = f"process {self.pid} on {self.host}, since {self.since} ({self.command})"
        return "".join(letter if letter.isprintable() else "?" for letter in words)


class Lock:
    """The right to write into a run directory. Given back at the end of a `with` block."""

    def __init__(self, run: Path, descriptor: int) -> None:
        self.run = run
        self._descriptor = descriptor
        mine = weakref.ref(self)

        def forget() -> None:
            if (lock := mine()) is not None:
                lock._close()

        # A child would keep the lock beyond the death of this process.
        os.register_at_fork(after_in_child=forget)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def passed_on(self) -> dict[str, int]:
        """For `launch.relaunch`: the lock outlives the program, not the process."""
        return {PASSED_ON: self._descriptor}

    def release(self) -> None:
        """Give the lock back, and remove the directory if nothing was put into it."""
        if self._descriptor < 0:
            return
        with suppress(OSError):  # what cannot be deleted is stale, and taken over
            if _is_at(self.run / FILE_NAME, self._descriptor):
                os.unlink(self.run / FILE_NAME)
                self.run.rmdir()
        self._close()

    def follow(self, aside: Path) -> None:
        """After the directory was renamed to `aside`: hold the one that takes its place instead.

        Raises:
            Busy: if another process was quicker.
        """
        old, self._descriptor = Lock(aside, self._descriptor), -1
        try:
            new = acquire(self.run)
            self._descriptor, new._descriptor = new._descriptor, -1
        finally:
            old.release()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def acquire(run: Path, say: Callable[[str], None] = lambda text: None) -> Lock:
    """Become the one writer of a run directory, which is made if need be.

    Args:
        run: the directory; empty, absent, or one with a run in it.
        say: told if a process that is gone left its lock behind.

    Raises:
        Busy: naming the process that writes there.
        UsageError: if the directory is of somebody else, or cannot be written.
    """
    real = Path(os.path.realpath(run))
    try:
        return _adopted(real) or _acquired(real, run, say)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise UsageError(
            f"'output' is {run}, which cannot be written ({error.strerror}). Choose another "
            "directory"
        ) from None


def refuse_foreign(run: Path) -> None:
    """Make sure that a directory may become a run, or is one.

    Raises:
        UsageError: if something else is there.
    """
    if not run.exists():
        return
    if not run.is_dir():
        raise UsageError(f"'output' is {run}, which is a file. Choose another directory")
    names = {path.name for path in run.iterdir()}
    others = {name for name in names - _BEGINNINGS if not _ASIDE.match(name)}
    # A folder with somebody's recipe.yaml in it is no run: `output: .` would take it over.
    if others and not ("recipe.yaml" in names and names & _RECORDS):
        raise UsageError(
            f"'output' is {run}, which is not empty and holds no run. Choose another directory"
        )


def _acquired(real: Path, run: Path, say: Callable[[str], None]) -> Lock:
    begin, made = time.monotonic(), set[tuple[int, int]]()
    while True:
        refuse_foreign(run)
        waited = time.monotonic() - begin
        # The directory may vanish in between, when the process that made it takes it back.
        with suppress(FileNotFoundError):
            real.mkdir(parents=True, exist_ok=True)
            lock = _attempt(real, run, say, made, late=waited > PATIENCE_SECONDS)
            if lock is not None:
                return lock
        # Twice, since whoever took a nameless lock because it was late has to say its name, too.
        if waited > 2 * PATIENCE_SECONDS:
            raise Busy(f"{run} is locked by a process that does not say who it is. {_remedy(run)}")
        time.sleep(0.02)


def _attempt(
    real: Path, run: Path, say: Callable[[str], None], made: set[tuple[int, int]], late: bool
) -> Lock | None:
    """The lock, or nothing if it is to be tried again. What was created is added to `made`."""
    descriptor, created = _opened(real / FILE_NAME)
    try:
        status = os.fstat(descriptor)
        file = (status.st_dev, status.st_ino)
        if created:
            made.add(file)
        free = _lock(descriptor)
        if not _is_at(real / FILE_NAME, descriptor):
            return None
        holder = _read(descriptor)
        if holder is not None and (holder.is_alive or not holder.is_of_this_machine):
            raise Busy(
                f"{run} is being written by {holder}. Wait for it, stop it, or set another "
                f"`output`.{'' if holder.is_of_this_machine else ' ' + _remedy(run)}"
            )
        # An empty file that is not ours: somewhere a process is about to write its name into it.
        if not free or (holder is None and file not in made and not late):
            return None
        _write(descriptor)
        lock, descriptor = Lock(real, descriptor), -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if holder is not None:
        say(f"the last writer of {run} is gone, and its lock taken over: {holder}")
    return lock


def _adopted(real: Path) -> Lock | None:
    """The lock of this process from before it replaced itself."""
    number = os.environ.pop(PASSED_ON, None)
    if number is None or not _is_at(real / FILE_NAME, int(number)):
        return None
    os.set_inheritable(int(number), False)
    return Lock(real, int(number))


def _opened(path: Path) -> tuple[int, bool]:
    """The open file, and whether it was made by this."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(path, flags, 0o644), True
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW), False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN_TO_THE_FILE_SYSTEM:
            raise
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _read(descriptor: int) -> Holder | None:
    """Who wrote the file; nobody, if that is not to be made out."""
    try:
        values = json.loads(os.pread(descriptor, 4096, 0))
        holder = Holder(**values)
    except (ValueError, TypeError):
        return None
    kinds = (str, int, str, int, str, str)
    fits = all(map(isinstance, asdict(holder).values(), kinds))
    return holder if fits else None


def _write(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(Holder.this_process())).encode(), 0)
    os.fsync(descriptor)


def _remedy(run: Path) -> str:
    return f"If that process is gone for sure, delete {run / FILE_NAME}"


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _started(pid: int) -> int | None:
    """Clock ticks from the start of the machine to that of a process; nothing once it ends."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    ended = state in "ZX" or int(fields[5]) & _EXITING
    return None if ended else int(fields[18])
