"""A small model as another runtime has it, and what it is given to read."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexus.exports import export

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
IDS = np.arange(16).reshape(2, 8)


def small() -> Any:
    return SMALL["make_model"](layers=1, seed=2)


def exported(folder: Path, needed: Sequence[str], **how: Any) -> Path:
    """The folder of the small model in eight bits; skipped without the libraries."""
    for name in needed:
        pytest.importorskip(name)
    SMALL["save"](folder / "model", small())
    export(folder / "model", folder / "out", bits=8, seconds=0.0, **how)
    return folder / "out"


def remembers(session: Any, known: Any) -> None:
    """A text in two parts is the text, each time that it begins anew."""
    whole = session.run(known(0, 8))
    for _ in range(2):
        session.forget()
        parts = np.concatenate([session.run(known(0, 5)), session.run(known(5, 8))], axis=1)
        np.testing.assert_allclose(parts, whole, atol=1e-5, rtol=1e-4)
