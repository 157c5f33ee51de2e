"""The page of silent failures names tests that exist, and changes that can be made."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parent / "silent_failures.py"))
ROOT: Path = SCRIPT["ROOT"]
BUGS: list[Any] = SCRIPT["bugs"]()


def test_the_rows_are_numbered() -> None:
    assert [bug.number for bug in BUGS] == list(range(1, len(BUGS) + 1))
    assert len(BUGS) >= 23


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.number))
def test_the_test_exists_and_says_how_to_break_it(bug: Any) -> None:
    file, names = bug.place
    node: Any = ast.parse(file.read_text(encoding="utf-8"))
    for name in names:
        kinds = ast.FunctionDef | ast.ClassDef
        found = [part for part in node.body if isinstance(part, kinds) and part.name == name]
        assert found, f"{name} is not in {file}"
        node = found[0]
    assert isinstance(node, ast.FunctionDef)
    assert "see it fail" in (ast.get_docstring(node) or "")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.number))
def test_the_change_can_be_made(bug: Any) -> None:
    code = (ROOT / bug.file).read_text(encoding="utf-8")
    assert code.count(bug.old) == 1
    ast.parse(code.replace(bug.old, bug.new))
