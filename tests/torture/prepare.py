"""Before the first trial: everything imported, and the undisturbed runs that others are held to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import torch

from torture import ranks
from torture.mounts import MOUNTS
from torture.operations import Fault
from torture.outcome import differences, outcome
from torture.server import Child
from torture.subject import distil, warm, write_workspace
from torture.trials import Bench, Trial, described, noted


def prepare(bench: Bench, *, two_processes: bool = True) -> None:
    """Make the workspace, import what a run imports, and do the undisturbed runs."""
    torch.set_num_threads(1)
    bench.recipe = write_workspace(bench.root / "workspace")
    _warm(bench)
    _undisturbed(bench)
    _interrupted(bench)
    if two_processes:
        ranks.measure(bench)
    bench.missing |= _missing()


def _warm(bench: Bench) -> None:
    """Let a run in a child say what it imports, and import the same here."""
    trial, names = Trial(bench, "warm", 0), bench.root / "modules.json"

    def work() -> int:
        code = distil(trial.place / bench.recipe.name)()
        names.write_text(json.dumps(list(sys.modules)))
        return code

    ended = Child(work, trial.folder / "said.txt").end()
    if ended.code != 0:
        raise SystemExit(f"the run that is to be disturbed does not work: {described(ended)}")
    warm(json.loads(names.read_text()))


def _undisturbed(bench: Bench) -> None:
    """Twice, the first time with its operations noted. They must agree, else nothing can."""
    note, outcomes = bench.root / "operations.json", []
    for number in range(2):
        trial = Trial(bench, "undisturbed", number)
        ended = trial.command(note=None if number else note).end()
        if ended.code != 0:
            raise SystemExit(f"an undisturbed run fails: {described(ended)}")
        bench.seconds = ended.computed
        outcomes.append(outcome(trial.run))
    if different := differences(*outcomes):
        raise SystemExit("undisturbed runs differ:\n" + "\n".join(different[:8]))
    bench.reference, bench.operations = outcomes[0], noted(note)


def _interrupted(bench: Bench) -> None:
    """A run killed while it saved step 6; the same with its newest checkpoint damaged."""
    saving = [one.number for one in bench.operations if "step-000006" in one.path]
    trial = Trial(bench, "interrupted", 0)
    ended = trial.command(Fault(saving[len(saving) // 3], "before")).end()
    if ended.code != -signal.SIGKILL:
        raise SystemExit(f"step 6 was not saved a second time: {described(ended)}")
    bench.interrupted = trial.place
    bench.damaged = bench.root / "damaged"
    shutil.copytree(bench.interrupted, bench.damaged, symlinks=True)
    newest = max(bench.damaged.glob("run/checkpoints/*/step-*"))
    largest = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)

    again, note = Trial(bench, "recovered", 0), bench.root / "recovery.json"
    again.begin(like=bench.damaged)
    ended = again.command(note=note).end()
    different = differences(bench.reference, outcome(again.run))
    if ended.code == 0 and not different:
        bench.recovery = noted(note)
    else:
        why = "\n    ".join([described(ended), *different[:4]])
        bench.failures.append(f"a damaged newest checkpoint is not recovered from: {why}")


def _missing() -> dict[str, str]:
    """What cannot be tried here, by name of its kind."""
    missing = {}
    if os.environ[MOUNTS] != "own":
        for name in ("size", "others"):
            missing[name] = "no tmpfs can be mounted: neither root nor user namespaces"
    if shutil.which("strace") is None:
        missing["strace"] = "strace is not installed"
    else:
        probe = ["strace", "-f", "-qq", "-e", "inject=fsync:error=EIO:when=1", "true"]
        if subprocess.run(probe, capture_output=True).returncode != 0:
            missing["strace"] = "strace may not trace here"
    return missing
