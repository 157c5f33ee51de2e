"""Disks that are full or broken: at each write, by size, and from below with strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torture.mounts import grow, mount, unmount
from torture.operations import GROWING, Fault, How
from torture.server import Child, Ended
from torture.trials import Bench, Kind, Result, Trial, described

PAGE = 4096
SIZES = 40
"""Most are refused before the first step, since the run needs more: with exit code 2."""
NEIGHBOURS = 120
ROOM = 1 << 23
CALLS = ("write", "fsync", "rename", "mkdir")
STRACED = 24


def full_at_each_write(trial: Trial) -> Result:
    """No space from one operation on, wherever that is."""
    return _injected(trial, _growing(trial.bench)[trial.number], "ENOSPC")


def broken_at_each_operation(trial: Trial) -> Result:
    """An input/output error at one operation."""
    return _injected(trial, trial.number + 1, "EIO")


def full_by_size(trial: Trial) -> Result:
    """A real file system of so many pages, which is large enough later."""
    # The first pages hold the folder and the recipe.
    size = PAGE * 3 + _largest(trial.bench) * trial.number // SIZES // PAGE * PAGE
    with _mounted(trial, size):
        return _full_then_grown(trial, trial.command().end(), allowed=(0, 1, 2, 75))


def full_by_others(trial: Trial) -> Result:
    """A real file system that something else fills up while the run is at work."""
    free = _largest(trial.bench) * trial.number // NEIGHBOURS // PAGE * PAGE
    with _mounted(trial, ROOM):
        child = trial.command()
        while not (trial.run / "metrics.jsonl").exists() and not child.ended_within(0.002):
            pass
        stat = os.statvfs(trial.place)
        excess = stat.f_bfree * stat.f_frsize - free
        with (trial.place / "of-others").open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, excess))
        return _full_then_grown(trial, child.end(), allowed=(0, 1, 75))


def _full_then_grown(trial: Trial, ended: Ended, allowed: tuple[int, ...]) -> Result:
    problem = _unfit(ended, full=True, allowed=allowed)
    grow(trial.place, 4 * ROOM)
    result = trial.conclude(problem, struck=ended.code != 0)
    if result.problem:
        shutil.copytree(trial.place, trial.folder / "place-kept")
    return result


@contextmanager
def _mounted(trial: Trial, size: int) -> Iterator[None]:
    shutil.rmtree(trial.place)
    trial.place.mkdir()
    mount(trial.place, size)
    try:
        trial.put_recipe()
        yield
    finally:
        unmount(trial.place)


def from_below(trial: Trial) -> Result:
    """The kernel's answer changed by strace, which also reaches what native code does."""
    call = CALLS[trial.number % len(CALLS)]
    how = ("ENOSPC", "EIO")[trial.number // len(CALLS) % 2]
    total = _counted_from_below(trial)[call]
    at = trial.random.randint(1, total)
    lasting = "+" if how == "ENOSPC" else ""
    trial.begin()
    child, tracer = _straced(trial, "-e", f"inject={_name(call)}:error={how}:when={at}{lasting}")
    ended = child.end()
    tracer.wait()
    # A write that fails may well be that of the message.
    problem = _unfit(ended, full=how == "ENOSPC", unheard=call == "write")
    return trial.conclude(problem and f"{call} {at} of {total}: {problem}", struck=ended.code != 0)


def _injected(trial: Trial, at: int, how: How) -> Result:
    operation = trial.bench.operations[at - 1]
    ended = trial.command(Fault(at, how)).end()
    problem = _unfit(ended, full=how == "ENOSPC")
    where = f"{how} at operation {at}, {operation.call} {operation.path}: "
    return trial.conclude(problem and where + problem, struck=ended.code != 0)


def _unfit(
    ended: Ended,
    *,
    full: bool,
    unheard: bool = False,
    allowed: tuple[int, ...] = (0, 1, 75),
) -> str:
    """What is wrong with how a run ended whose disk failed, if anything.

    One that ends well is good if it has the same outcome, which is compared afterwards.
    """
    if ended.code not in allowed:
        return described(ended)
    if "Traceback" in ended.said and not unheard:
        return f"a traceback: {described(ended)}"
    named = re.search(r"\d.* need|need.* \d", ended.said) and "free" in ended.said
    if ended.code and full and not named and not unheard:
        return f"needed and free bytes are not named: {described(ended)}"
    return ""


def _growing(bench: Bench) -> list[int]:
    return [one.number for one in bench.operations if one.call in GROWING]


def _largest(bench: Bench) -> int:
    """Bytes that a whole run occupies, and the checkpoint that is written beside the others."""
    assert bench.interrupted is not None
    files = [path for path in bench.interrupted.rglob("*") if path.is_file()]
    return 2 * sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)


def _counted_from_below(trial: Trial) -> Counter[str]:
    """How often an undisturbed run makes each call, by strace's own account; counted once."""
    log = trial.bench.root / "strace.log"
    if not log.exists():
        child, tracer = _straced(trial, "-o", f"{log}.aside")
        child.end()
        tracer.wait()
        Path(f"{log}.aside").replace(log)
    found = re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), flags=re.MULTILINE)
    return Counter("rename" if "rename" in name else name for name in found)


def _straced(trial: Trial, *options: str) -> tuple[Child, subprocess.Popen[bytes]]:
    """The command in a process that waits until strace watches it."""

    def watched() -> None:
        deadline = time.monotonic() + 30
        while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            if time.monotonic() > deadline:
                raise TimeoutError("strace did not come")
            time.sleep(0.005)

    child = trial.command(before=watched)
    names = ",".join(map(_name, CALLS))
    command = ["strace", "-f", "-qq", "-p", str(child.pid), "-e", f"trace={names}", *options]
    quiet = subprocess.DEVNULL
    return child, subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)


def _name(call: str) -> str:
    """strace's name of a call under all the names it has."""
    return f"/^{call}(at2?)?$" if call in ("rename", "mkdir") else call


KINDS = (
    Kind(
        "full", "no space from each write on", 4, lambda bench: len(_growing(bench)),
        full_at_each_write,
    ),
    Kind(
        "broken", "input/output error at each operation", 3,
        lambda bench: len(bench.operations), broken_at_each_operation,
    ),
    Kind("size", "tmpfs too small from the start", 1, lambda bench: SIZES, full_by_size),
    Kind("others", "tmpfs filled up by others", 2, lambda bench: NEIGHBOURS, full_by_others),
    Kind("strace", "write, fsync, rename or mkdir failing", 0, lambda bench: STRACED, from_below),
)  # fmt: skip
