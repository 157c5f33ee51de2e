"""Memory that runs out is named as such, with the smallest change that helps."""

from __future__ import annotations

import errno
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nexus.training.shortage import LAST_RESORT, OutOfMemory, advice, explained, is_shortage

WORKSPACE = runpy.run_path(str(Path(__file__).parent.parent / "workspace.py"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate"
                     " memory: you tried to allocate 9 bytes. Error code 12"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)  # fmt: skip
def test_it_is_recognised_in_every_dress(error: Exception) -> None:
    assert is_shortage(error)
    said = r"^memory ran out when it was tried.*Do this"
    with pytest.raises(OutOfMemory, match=said) as failure, explained("it was tried", "Do this"):
        raise error
    assert failure.value.exit_code == 1 and "Checkpoints are intact" in str(failure.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), OSError(errno.ENOSPC, "full"), KeyError("no")]
)
def test_nothing_else_is_taken_for_it(error: Exception) -> None:
    with pytest.raises(type(error)) as failure, explained("it was tried", "Do this"):
        raise error
    assert failure.value is error


def test_real_allocations_that_fail_are_recognised() -> None:
    with pytest.raises((MemoryError, RuntimeError)) as failure:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_shortage(failure.value)
    with pytest.raises(MemoryError) as failure:
        bytearray(1 << 62)
    assert is_shortage(failure.value)


def test_the_least_costly_change_comes_first_and_the_last_one_is_another_machine(
    scene: SimpleNamespace,
) -> None:
    """Following the advice over and over leads through all that a recipe can change."""
    followed = []
    given, length = {"micro_batch_rows": 4, "precision": "bf16"}, 512
    for _ in range(10):
        said = advice(scene.make_settings(**given), length)
        found = re.match(r"Set (\S+) to (\S+) \(now (\S+)\)", said)
        if found is None:
            break
        key, value, now = found.groups()
        followed.append((key, value, now))
        assert f"--set {key}={value}" in said
        if key == "data.sequence_length":
            length = int(value)
        else:
            given[key.removeprefix("train.")] = value
    assert said == LAST_RESORT
    assert followed == [
        ("train.micro_batch_rows", "2", "4"),
        ("train.micro_batch_rows", "1", "2"),
        ("train.gradient_checkpointing", "true", "false"),
        ("data.sequence_length", "256", "512"),
        ("data.sequence_length", "128", "256"),
        ("train.precision", "pure_bf16", "bf16"),
    ]


PROGRAM = """
import resource
from nexus import cli
from nexus.training import loop

take_step, eaten = loop.take_step, []

def in_a_small_room(stage, wrapped, optimizer, step, *rest):
    if step == 3 and LIMITED:
        pages = int(open("/proc/self/statm").read().split()[0])
        room = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        try:
            while True:  # what earlier steps have freed is no reserve
                eaten.append(bytearray(1 << 18))
        except MemoryError:
            del eaten[-16:]
    return take_step(stage, wrapped, optimizer, step, *rest)

loop.take_step = in_a_small_room
cli.main()
"""


def test_a_process_with_too_little_memory_says_so_and_goes_on_with_more(tmp_path: Path) -> None:
    """A real limit of the system, reached in the fourth step."""
    recipe = WORKSPACE["write_workspace"](tmp_path / "workspace")
    changes = [
        "train.steps=5", "data.heldout=[]", "evaluate.samples=0", "train.micro_batch_rows=32",
        "train.tokens_per_step=4096",
    ]  # fmt: skip

    def command(limited: bool, *more: str) -> tuple[int, str]:
        program = PROGRAM.replace("LIMITED", str(limited))
        arguments = ["distill", str(recipe), "--set", *changes, *more]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "NEXUS_MEMORY": "as it is", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stderr

    code, said = command(limited=True)
    assert code == 1, said
    assert "memory ran out when stage 'train' was trained" in said and "Traceback" not in said
    assert "Set train.micro_batch_rows to 16 (now 32)" in said
    steps = sorted(path.name for path in (recipe.parent / "run/checkpoints/train").iterdir())
    assert steps == ["step-000000", "step-000002"]
    code, said = command(False, "--set", "train.micro_batch_rows=16", "--allow-changed", "recipe")
    assert code == 0, said
    assert (recipe.parent / "run/report.html").exists()
