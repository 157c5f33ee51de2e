"""A subject for the tests of single proofs. Loaded with `runpy.run_path`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nexus.teachers.local import LocalTeacher
from nexus.training.invariants.subject import Subject


def make_subject(scene: SimpleNamespace, folder: Path, **changed: Any) -> Subject:
    subject = Subject(
        teacher=LocalTeacher(scene.make_model(3, 1)),
        student=scene.make_model(2),
        objectives=scene.BOTH,
        settings=scene.make_settings(clip_gradient=0.01),
        vocabulary=scene.VOCABULARY,
        packed=True,
        folder=folder,
        limit=1e-3,
    )
    return replace(subject, **changed)
