"""What must come out of a run the same, however often it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMED = {"seconds", "tokens_per_second", "peak_memory_gib", "metrics_bytes"}
"""What no two runs share: times, memory, and how many bytes it takes to write these down."""

LEFTOVER = (".tmp-", ".del-", ".part", ".partial", ".lock")

EXACT = ("student", "untrained.npy")
"""Files, and all beneath folders, that are the same byte by byte; so are last checkpoints."""

KEPT = 2
"""Checkpoints of a stage that may be there. Which ones depends on where a run was stopped."""

REQUIRED = ("student/model.safetensors", "metrics.jsonl", "evaluation.json", "report.html")


def outcome(run: Path) -> dict[str, str]:
    """Names of what there is, with digests or values; times left out.

    Weights, optimiser, random states and all else in student and last checkpoints byte by byte,
    each line of the metrics, every number of the evaluation, and whatever is left lying about.
    """
    found: dict[str, str] = {name: "missing" for name in REQUIRED if not (run / name).is_file()}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name.startswith("quarantine-") or "/quarantine-" in name:
            continue
        if any(mark in part for part in path.relative_to(run).parts for mark in LEFTOVER):
            found[name] = "left lying about"
        elif path.is_file() and name.split("/")[0] in EXACT:
            found[name] = _sha256(path)
    for stage in sorted(run.glob("checkpoints/*")):
        found |= _checkpoints(stage)
    found |= _metrics(run / "metrics.jsonl") | _evaluation(run / "evaluation.json")
    return found


def differences(reference: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Every name whose value is not the same in both, in words."""
    absent = "not there"
    return [
        f"{name}: {reference.get(name, absent)} undisturbed, {other.get(name, absent)} now"
        for name in sorted(reference.keys() | other.keys())
        if reference.get(name) != other.get(name)
    ]


def _checkpoints(stage: Path) -> dict[str, str]:
    """The last one's files, and that there are not more than there may be."""
    whole = sorted(stage.glob("step-*"))
    found = {f"checkpoints/{stage.name}": f"at most {KEPT}"}
    if len(whole) > KEPT:
        found = {f"checkpoints/{stage.name}": f"{len(whole)} of them"}
    for path in sorted(whole[-1].rglob("*")) if whole else ():
        if path.is_file():
            name = path.relative_to(stage).as_posix()
            found[f"checkpoints/{stage.name}/{name}"] = _content(path)
    return found


def _content(path: Path) -> str:
    """Its hash, or what it says where that depends on the length of times in metrics.jsonl."""
    match path.name:
        case "state.json":
            state = json.loads(path.read_text())
            return json.dumps({key: value for key, value in state.items() if key not in TIMED})
        case "MANIFEST.json":
            return ", ".join(sorted(json.loads(path.read_text())["files"]))
        case _:
            return _sha256(path)


def _metrics(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {f"{path.name}:{number}": _timeless(line) for number, line in enumerate(lines, 1)}


def _timeless(line: str) -> str:
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return f"torn: {line[:40]}"
    return json.dumps({key: value for key, value in entry.items() if key not in TIMED})


def _evaluation(path: Path) -> dict[str, str]:
    values = json.loads(path.read_text()) if path.exists() else {}
    return {f"{path.name}:{key}": json.dumps(value) for key, value in values.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
