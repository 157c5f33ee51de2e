"""Mounts that only this process and its children see, and that end with them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

MOUNTS = "TORTURE_MOUNTS"
"""Set in a process that was started again; says whether it has mounts of its own."""

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",  # no process that is forked may share another's accelerator
    "NEXUS_MEMORY": "as the harness has it",
}


def start_again() -> None:
    """Replace this process by one with mounts of its own where that can be had."""
    command = _unshare()
    environment = {**os.environ, **_ENVIRONMENT, MOUNTS: "own" if command else "none"}
    arguments = [*command, sys.executable, "-m", "torture", *sys.argv[1:]]
    os.execvpe(arguments[0], arguments, environment)


def mount(place: os.PathLike[str] | str, size: int) -> None:
    """An empty file system of so many bytes at `place`."""
    subprocess.run(_mount(place, f"size={size}"), check=True)


def grow(place: os.PathLike[str] | str, size: int) -> None:
    """Make room on a file system that `mount` made."""
    subprocess.run(_mount(place, f"remount,size={size}"), check=True)


def unmount(place: os.PathLike[str] | str) -> None:
    subprocess.run(["umount", "--lazy", place], check=True)


def _mount(place: os.PathLike[str] | str, options: str) -> list[os.PathLike[str] | str]:
    return ["mount", "-t", "tmpfs", "-o", options, "torture", place]


def _unshare() -> list[str]:
    """The command that gives what follows it mounts of its own; empty where there is none."""
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        with tempfile.TemporaryDirectory() as place:
            try:
                attempt = [*command, *_mount(place, "size=1m")]
                subprocess.run(attempt, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            return command
    return []
