"""Damage that comes later: bits, lengths and whole files of checkpoints."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from nexus import durable
from torture.outcome import differences, outcome
from torture.trials import Kind, Result, Trial, described

NOTICED = 1000
RESUMED = 60


def noticed(trial: Trial) -> Result:
    """A damaged checkpoint does not verify."""
    trial.begin(like=trial.bench.interrupted)
    checkpoints = _checkpoints(trial.run)
    if not checkpoints:
        return trial.failed("no checkpoint has a manifest")
    checkpoint = trial.random.choice(checkpoints)
    file = trial.random.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file()))
    before = file.read_bytes()
    durable.verify(checkpoint)
    what = _damaged(file, trial.random)
    try:
        durable.verify(checkpoint)
    except durable.Damaged:
        return Result(trial.kind, trial.number, True, resumed=None, identical=None)
    if file.name == durable.MANIFEST and file.exists() and _same_json(before, file.read_bytes()):
        # White space, which says nothing.
        return Result(trial.kind, trial.number, False, resumed=None, identical=None)
    return trial.failed(f"{what}, and nobody noticed")


def resumed(trial: Trial) -> Result:
    """A run whose checkpoints are damaged ends as if it had not been, or refuses to go on."""
    trial.begin(like=trial.bench.interrupted)
    checkpoints = _checkpoints(trial.run)
    if not checkpoints:
        return trial.failed("no checkpoint has a manifest")
    chosen = trial.random.sample(checkpoints, trial.random.randint(1, len(checkpoints)))
    what = []
    for checkpoint in chosen:
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        what.append(_damaged(trial.random.choice(files), trial.random))
    ended = trial.command().end()
    if ended.code in (1, 2) and "Traceback" not in ended.said:
        return Result(trial.kind, trial.number, True, resumed=None, identical=None)
    if ended.code != 0:
        return trial.failed(f"{'; '.join(what)}: {described(ended)}")
    different = differences(trial.bench.reference, outcome(trial.run))
    if different:
        return trial.failed(f"{'; '.join(what)}: silently another outcome: {different[:4]}")
    return Result(trial.kind, trial.number, struck=True)


def _checkpoints(run: Path) -> list[Path]:
    return sorted(path.parent for path in run.glob(f"checkpoints/*/*/{durable.MANIFEST}"))


def _damaged(file: Path, chance: random.Random) -> str:
    """Damage a file in one of three ways, and say how."""
    content = file.read_bytes()
    ways: list[Callable[[], str]] = [lambda: _deleted(file)]
    if content:
        ways += [lambda: _cut(file, content, chance), lambda: _flipped(file, content, chance)] * 2
    return chance.choice(ways)()


def _deleted(file: Path) -> str:
    file.unlink()
    return f"{file.name} deleted"


def _cut(file: Path, content: bytes, chance: random.Random) -> str:
    size = chance.randrange(len(content))
    file.write_bytes(content[:size])
    return f"{file.name} cut to {size} of {len(content)} bytes"


def _flipped(file: Path, content: bytes, chance: random.Random) -> str:
    bit = chance.randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    return f"bit {bit} of {file.name} flipped"


def _same_json(one: bytes, two: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(two))
    except ValueError:
        return False


KINDS = (
    Kind("noticed", "damaged files of checkpoints", 40, lambda bench: NOTICED, noticed),
    Kind("damage", "runs with damaged checkpoints", 2, lambda bench: RESUMED, resumed),
)
