"""A subject and pieces for the tests of single proofs."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MADE = runpy.run_path(str(Path(__file__).with_name("subjects.py")))


@pytest.fixture
def subject_with(scene: SimpleNamespace, tmp_path: Path) -> Callable[..., Any]:
    """Makes a `Subject` of tiny models; what is named is changed in it."""
    return partial(MADE["make_subject"], scene, tmp_path)


@pytest.fixture
def pieces(scene: SimpleNamespace) -> list[Any]:
    return list(scene.make_documents([16, 11, 19, 7, 13]))
