"""A recipe's values are read before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nexus.errors import UsageError
from nexus.recipe.read import read


def test_values_and_overrides_are_read_without_a_heavy_import(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("output: runs/one\ntrain: {steps: 3}\n")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nexus.recipe.read import read\n"
        "print(read(Path(sys.argv[1]), ['output=a', 'train.steps=5']))\n"
        "print({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "{'output': 'a', 'train': {'steps': 5}}\nset()\n", done.stderr


@pytest.mark.parametrize("text", ["a: [", "just words", "a: 1\na: 2", ""])
def test_what_is_no_recipe_is_named_by_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UsageError, match="recipe.yaml"):
        read(tmp_path / "recipe.yaml")


def test_a_missing_recipe_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nexus quickstart DIR"):
        read(tmp_path / "recipe.yaml")


def test_an_override_without_a_place_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("output: a")
    with pytest.raises(UsageError, match="'output.deeper=1': there is nothing inside"):
        read(tmp_path / "recipe.yaml", ["output.deeper=1"])


def test_a_value_within_itself_is_refused_and_one_that_stands_twice_is_not(tmp_path: Path) -> None:
    """Anchors can bring about both; sixty doublings must not be walked one by one."""
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: &a [*a]\n")
    with pytest.raises(UsageError, match="within itself"):
        read(file)
    file.write_text(
        "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))
    )
    assert len(read(file)) == 61
    with pytest.raises(UsageError, match="not valid YAML"):
        read(file, ["seed=&c [*c]"])


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "1" * 5000])
def test_a_number_too_long_to_be_shown_is_refused(tmp_path: Path, number: str) -> None:
    """Wherever it stands: Python, and compiled libraries with it, refuse to write it down."""
    file = tmp_path / "recipe.yaml"
    file.write_text(f"seed: [{{a: {number}}}]")
    with pytest.raises(UsageError, match=f"{len(number)} characters.*shorten"):
        read(file)
