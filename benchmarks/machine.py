"""What a measurement was taken on and with, and whether what it needs is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nexus.errors import UsageError

INSTALL = {
    "trl": "pip install -c constraints.txt -e '.[bench]'",
    "liger-kernel": "pip install --no-deps -c constraints.txt liger-kernel",
}
"""Peers, and how to get them. Liger's losses need none of its dependencies on a CPU."""

TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides how fast a processor multiplies bf16 matrices."""


def require(packages: Iterable[str]) -> None:
    """Make sure that every peer is installed, before anything is measured.

    Raises:
        UsageError: names the first that is not, and how to get it.
    """
    for package in packages:
        if package and _version(package) is None:
            raise UsageError(
                f"{package} is not installed: run {INSTALL[package]}, or leave it out with "
                "--variants"
            )


def facts() -> dict[str, Any]:
    """Processor, memory, threads, load and versions."""
    cpu = dict(_lines(Path("/proc/cpuinfo")))
    memory = dict(_lines(Path("/proc/meminfo")))
    names = ("nexus-distillation", "torch", "transformers", *INSTALL)
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "bf16": [flag for flag in TELLING_FLAGS if flag in cpu.get("flags", "").split()],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(int(memory["MemTotal"].split()[0]) / 2**20, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
    }


def described(machine: dict[str, Any]) -> str:
    """The same for readers."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    load = f"load before the run {machine['load_before']}; " if "load_before" in machine else ""
    return (
        f"Measured on {machine['cpu']} ({', '.join(machine['bf16']) or 'no bf16 instructions'}), "
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB; "
        f"{load}Python {machine['python']}, {versions}."
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    for line in reversed(path.read_text().splitlines()):  # of several processors, the first
        name, found, value = line.partition(":")
        if found:
            yield name.strip(), value.strip()
