"""Small models, documents and stages: see scene.py."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

SCENE = Path(__file__).parent / "scene.py"


@pytest.fixture(scope="session")
def scene() -> SimpleNamespace:
    """All that scene.py defines."""
    return SimpleNamespace(**runpy.run_path(str(SCENE)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """A process group without anybody else: what is sharded in it is a DTensor like any other."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
