"""A process that the kernel ended for want of memory cannot say so: the next one finds out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nexus import durable
from nexus.memory import GIB

FILE_NAME = "training.json"

NEARLY_ALL = 0.9
"""The share of the memory there is above which a silent end is put down to it."""


@contextmanager
def marked(run: Path, *, writes: bool = True) -> Iterator[None]:
    """Inside, a file in the run directory says how memory stood when training began.

    It goes when the block ends, however it does. What finds it finds a process that was killed.
    """
    file = run / FILE_NAME
    if writes:
        durable.write(file, json.dumps(_facts()) + "\n")
    try:
        yield
    finally:
        if writes:
            file.unlink(missing_ok=True)


def killed_for_memory(run: Path) -> tuple[int, str] | None:
    """Whether the run's last process was, as far as can be told.

    Returns:
        The last step that it finished, and why it is thought so.
    """
    file = run / FILE_NAME
    if not file.exists():
        return None
    before, now, last = json.loads(file.read_text()), _facts(), _last_line(run / "metrics.jsonl")
    step = int(last.get("step", 0))
    if before.get("boot") == now["boot"] and now["kills"] > before.get("kills", 0):
        return step, "the system has ended a process for want of memory since then"
    held, limit = float(last.get("peak_memory_gib", 0)), now["limit_gib"]
    if held >= NEARLY_ALL * limit > 0:
        return step, f"it held {held:.1f} GiB of the {limit:.1f} GiB that there are"
    return None


def _facts() -> dict[str, Any]:
    """Zero where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return {"boot": "", "kills": 0, "limit_gib": 0.0}
    total = 1024 * _counter("/proc/meminfo", "MemTotal:")
    limit = _number("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    return {
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "kills": _counter("/proc/vmstat", "oom_kill"),
        "limit_gib": min(total, limit or total) / GIB,
    }


def _counter(file: str, name: str) -> int:
    """The number after a name, in a file of such lines."""
    lines = (line.split() for line in _text(file).splitlines())
    return next((int(words[1]) for words in lines if words and words[0] == name), 0)


def _number(*files: str) -> int:
    texts = [text for file in files if (text := _text(file)).isdecimal()]
    return int(texts[0]) if texts else 0


def _text(file: str) -> str:
    path = Path(file)
    return path.read_text().strip() if path.exists() else ""


def _last_line(file: Path) -> dict[str, Any]:
    """The last one that is whole."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except ValueError:
            continue
    return {}
