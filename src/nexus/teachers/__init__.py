"""Teachers provide signals. `AnyTeacher` is the union of the kinds that a recipe can name."""

from __future__ import annotations

from nexus.teachers.local import LocalTeacherSpec

AnyTeacher = LocalTeacherSpec
"""One kind so far; more make it a union discriminated by `kind`."""
