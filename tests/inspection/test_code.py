"""Code that settings name is found wherever they name it; what it is, is told by a hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.inspection.code import (
    NAMING,
    code_files,
    code_hash,
    refuse_code,
    refuse_foreign_code,
    refuse_kernels,
)


def write(folder: Path, name: str, values: Any) -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder / name


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize(
    "values",
    [
        {"auto_map": {"AutoModel": "own.Model"}},
        {"auto_map": ["own.Model", None]},
        {"text_config": {"auto_map": {"AutoModel": "own.Model"}}},
        {"custom_pipelines": {"task": {"impl": "own.Model"}}},
    ],
)
def test_named_code_is_found(tmp_path: Path, name: str, values: Any) -> None:
    refuse_code(tmp_path)
    write(tmp_path, name, values)
    with pytest.raises(UsageError, match=rf"{name}: \w+ names Python code to run, 'own\.Model"):
        refuse_code(tmp_path)
    refuse_foreign_code(tmp_path)


def test_settings_without_code_pass(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"auto_map": {}, "custom_pipelines": None, "model_type": "x"})
    refuse_code(tmp_path)


def test_code_of_another_repository_is_at_no_commit(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"auto_map": {"AutoModel": "evil/repo--own.Model"}})
    with pytest.raises(UsageError, match="'evil/repo--own.Model', at no commit"):
        refuse_foreign_code(tmp_path)


@pytest.mark.parametrize(
    ("attention", "refused"),
    [("sdpa", False), ("eager", False), (None, False), ("org/kernel", True), ({"": "a/b:c"}, True)],
)
def test_kernels_of_the_hub_are_code_too(tmp_path: Path, attention: Any, refused: bool) -> None:
    path = write(tmp_path, "config.json", {"text_config": {"attn_implementation": attention}})
    if refused:
        with pytest.raises(UsageError, match="compiled code"):
            refuse_kernels(path)
    else:
        refuse_kernels(path)


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").write_text("2")
    (tmp_path / "notes.txt").write_text("3")
    assert [path.name for path in code_files(tmp_path)] == ["a.py", "b.py"]
    seen = {code_hash(tmp_path)}
    (tmp_path / "notes.txt").write_text("4")
    assert code_hash(tmp_path) in seen
    (tmp_path / "a.py").write_text("5")
    seen.add(code_hash(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    seen.add(code_hash(tmp_path))
    assert len(seen) == 3
