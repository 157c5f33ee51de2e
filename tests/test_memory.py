"""Peak memory grows with what is held, and never falls."""

from __future__ import annotations

import torch

from nexus.memory import GIB, peak_memory_gib

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
