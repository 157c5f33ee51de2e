"""The rules of CONTRIBUTING.md that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from nexus.recipe.load import load
from nexus.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
SOURCE = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CODE = [
    *SOURCE,
    *TESTS,
    *sorted(
        path for name in ("examples", "benchmarks", "docs") for path in (ROOT / name).rglob("*.py")
    ),
]
OURS = (".ci", "benchmarks", "docs", "examples", "recipes", "src", "tests")
"""Named, since tools leave folders of their own, also while the tests run."""
WRITTEN = sorted(
    path
    for path in (*ROOT.glob("*"), *(path for name in OURS for path in (ROOT / name).rglob("*")))
    if path.is_file()
    and path.suffix in {".md", ".toml", ".yml", ".yaml", ".txt", ".html", ".py", ""}
    and "__pycache__" not in path.parts
    and path != Path(__file__)
)
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "managers"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
FOREIGN = re.compile(r"(^|[^\w.])/(root|home|work|mnt|Users)/\w|(^|[^\w.])/tmp/[a-z]")
PICKLE = re.compile(r"(?m)^\s*(import|from) (pickle|joblib|shelve)\b|torch\.(save|load)\(")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_files_stay_readable(path: Path) -> None:
    assert path.read_text().count("\n") <= 400


@pytest.mark.parametrize("path", [path for path in CODE if path not in TESTS], ids=name)
def test_functions_stay_readable(path: Path) -> None:
    """At most 50 lines, the docstring aside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno - documented.count("\n")
            assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCE, ids=name)
def test_every_source_file_is_well_named_and_has_its_test(path: Path) -> None:
    inside = path.relative_to(ROOT / "src" / "nexus")
    assert not VAGUE & {path.stem, *inside.parent.parts}
    assert (path.parent / "__init__.py").exists()
    if not path.stem.startswith("__"):
        assert (ROOT / "tests" / inside.parent / f"test_{path.name}").exists()


@pytest.mark.parametrize("path", SOURCE, ids=name)
def test_nothing_is_pickled(path: Path) -> None:
    assert not PICKLE.search(path.read_text())


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_nothing_is_unfinished_or_tied_to_one_machine(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not UNFINISHED.search(line), f"line {number}: {line}"
        assert not FOREIGN.search(line), f"line {number}: {line}"


def test_no_notebooks() -> None:
    assert not [path for path in ROOT.glob("*/**/*.ipynb") if ".venv" not in path.parts]


def test_every_recipe_we_ship_is_valid() -> None:
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert load(path).all_stages


def test_every_kind_a_recipe_can_name_is_explained() -> None:
    pages = "\n".join(
        path.read_text()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "reference"
    )
    kinds = set(_kinds(Recipe.model_json_schema()))
    assert kinds
    assert not [kind for kind in kinds if not re.search(rf"`{kind}`|kind: {kind}\b", pages)]


def _kinds(schema: Any) -> list[str]:
    """Every constant that a field called `kind` can have, anywhere in a JSON Schema."""
    if isinstance(schema, list):
        return [kind for part in schema for kind in _kinds(part)]
    if not isinstance(schema, dict):
        return []
    own = [value["const"] for key, value in schema.items() if key == "kind" and "const" in value]
    return own + [kind for part in schema.values() for kind in _kinds(part)]
