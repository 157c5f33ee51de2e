"""A recipe for another folder: the same files, named from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nexus.recipe.schema import Recipe

PATHS = ("output", "path", "config", "examples", "include_path", "scores")
"""The keys whose values are paths, wherever in a recipe they stand."""

PATH_OR_NAME = "model"
"""The key whose value is a path if there is such a folder, and else a name on the hub."""


def relocate(recipe: Recipe, old: Path, new: Path) -> Recipe:
    """The same recipe with relative paths that hold from `new`, as they held from `old`."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    return Recipe.parse(_moved(values, old, new), where="recipe")


def _moved(values: Any, old: Path, new: Path) -> Any:
    match values:
        case dict():
            return {
                key: _renamed(value, old, new)
                if isinstance(value, str) and _is_path(key, value, old)
                else _moved(value, old, new)
                for key, value in values.items()
            }
        case list():
            return [_moved(value, old, new) for value in values]
    return values


def _is_path(key: str, value: str, folder: Path) -> bool:
    if value.startswith("~") or os.path.isabs(value):
        return False
    return key in PATHS or (key == PATH_OR_NAME and (folder / value).is_dir())


def _renamed(value: str, old: Path, new: Path) -> str:
    """Links on the way are followed, since `..` would be; one at the end keeps its name."""
    there = old / value
    place = there.parent.resolve() / there.name if there.name not in ("", "..") else there.resolve()
    return Path(os.path.relpath(place, new.resolve())).as_posix()
