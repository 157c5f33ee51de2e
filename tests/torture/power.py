"""A power cut: what was written and not flushed to disk is gone, whatever names it has by then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from torture.operations import Fault, Operation
from torture.trials import Kind, Result, Trial, described

POINTS = 60


def cut(trial: Trial) -> Result:
    """Killed before an operation, and all files cut back, or filled with zeros, from there on
    where they have not been flushed."""
    operations = trial.bench.operations
    at = 2 + trial.number * (len(operations) - 1) // POINTS
    ended = trial.command(Fault(at, "before")).end()
    if ended.code != -signal.SIGKILL:
        return trial.failed(f"no such operation: {described(ended)}")
    for name, flushed in unflushed(operations[: at - 1]).items():
        _lose(trial.place / name, flushed, zeros=trial.number % 2 == 1)
    return trial.conclude()


def unflushed(operations: Iterable[Operation]) -> dict[str, int]:
    """The files with bytes that are not on disk, and how many of each are."""
    flushed: dict[str, int] = {}
    dirty: set[str] = set()
    for one in operations:
        match one.call:
            case "open" | "os.open" | "write" | "pwrite" | "save" | "truncate":
                dirty.add(one.path)
            case "fsync":
                dirty.discard(one.path)
                flushed[one.path] = one.size
            case "rename" | "replace":
                dirty = {_moved(path, one) for path in dirty if path != one.target}
                flushed = {_moved(path, one): size for path, size in flushed.items()}
            case "unlink" | "remove" | "rmdir":
                dirty.discard(one.path)
                flushed.pop(one.path, None)
    return {path: flushed.get(path, 0) for path in dirty}


def _moved(path: str, renaming: Operation) -> str:
    """What a path is called after a file or a folder above it was renamed."""
    if path == renaming.path or path.startswith(renaming.path + "/"):
        return renaming.target + path[len(renaming.path) :]
    return path


def _lose(file: Path, flushed: int, *, zeros: bool) -> None:
    if not file.is_file() or (size := file.stat().st_size) <= flushed:
        return
    os.truncate(file, flushed)
    if zeros:
        os.truncate(file, size)


KINDS = (Kind("power", "power cut: what is not flushed is gone", 1, lambda _: POINTS, cut),)
