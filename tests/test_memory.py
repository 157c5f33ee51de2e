"""Peak memory grows with what is held, and never falls."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path

import pytest
import torch

from nexus import memory
from nexus.memory import GIB, available_bytes, give_back, held_bytes, peak_memory_gib

CPU = torch.device("cpu")


def test_the_peak_covers_what_is_held_now() -> None:
    held = torch.ones(32 * 2**20)
    assert peak_memory_gib(CPU) > held.numel() * 4 / GIB


def test_the_peak_outlives_what_made_it() -> None:
    held = torch.ones(64 * 2**20)
    peak = peak_memory_gib(CPU)
    del held
    assert peak_memory_gib(CPU) >= peak


def test_it_is_in_gib_and_of_this_machine() -> None:
    assert 0.05 < peak_memory_gib(CPU) < 4096


def test_what_is_held_grows_by_what_is_made() -> None:
    """Mapped by itself: an allocator may have as much at hand that was freed and is still held."""
    before = held_bytes(CPU)
    mapped = mmap.mmap(-1, 2**28)
    held = torch.frombuffer(mapped, dtype=torch.uint8).fill_(1)
    assert held_bytes(CPU) - before > 0.9 * held.numel()
    uncounted = 1.01  # a kernel brings the two counters up to date at different times
    assert held_bytes(CPU) / GIB <= peak_memory_gib(CPU) * uncounted


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ, reason="of glibc's own memory"
)
def test_what_was_freed_is_handed_back_even_below_what_is_held() -> None:
    """To see it fail: in memory.give_back, return at once."""
    torch.ones(2**22)  # once one as large was freed, smaller ones are no longer mapped singly
    before = held_bytes(CPU)
    blocks = [torch.ones(2**19) for _ in range(64)]
    last = blocks[-1]
    del blocks
    give_back()
    assert held_bytes(CPU) - before < 8 * last.numel() * 4


@pytest.mark.parametrize(
    ("limit", "used", "cached", "left"),
    [("1000", 600, 100, 500), ("1000", 1200, 0, 0), ("max", 600, 100, None)],
)
def test_a_container_s_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    limit: str, used: int, cached: int, left: int | None,
) -> None:  # fmt: skip
    """What is left is the limit less the use, of which cached files make way."""
    monkeypatch.setattr(memory, "CONTROL_GROUPS", ())
    machine = available_bytes(CPU)
    files = [tmp_path / name for name in ("limit", "used", "statistics")]
    for file, text in zip(files, (limit, str(used), f"inactive_file {cached}"), strict=True):
        file.write_text(text + "\n")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", (tuple(map(str, files)),))
    found = available_bytes(CPU)
    assert found == left if left is not None else found > machine / 2
