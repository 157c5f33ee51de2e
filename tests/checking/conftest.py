"""What a check looks at: a small workspace of one's own, loaded."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nexus import scene
from nexus.recipe.load import load
from nexus.rundir import RunDirectory
from nexus.scene import Scene
from nexus.training.parallel import processes

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "workspace.py"))
Rows = list[dict[str, Any]]


@pytest.fixture
def scene_of(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Loads a workspace with other training or held-out rows and other values in its recipe."""
    with ExitStack() as held:
        parallel = held.enter_context(processes())

        def make(*changes: str, train: Rows | None = None, heldout: Rows | None = None) -> Scene:
            path: Path = SMALL["write_workspace"](tmp_path)
            for name, rows in (("train", train), ("heldout", heldout)):
                if rows is not None:
                    SMALL["write_rows"](tmp_path / f"{name}.jsonl", rows)
            recipe = load(path, changes)
            directory = RunDirectory.open(tmp_path / "run", recipe, tmp_path)
            return scene.load(recipe, directory, tmp_path, parallel, None, lambda _: None)

        yield make
