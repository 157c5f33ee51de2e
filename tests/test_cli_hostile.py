"""Names that strangers give to models, files and recipes steer no terminal and end no program."""

from __future__ import annotations

import runpy
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus import cli
from nexus.launch import MARK
from nexus.stopping import PROCESS

HERE = Path(__file__).parent
SMALL = runpy.run_path(str(HERE / "workspace.py"))
HOSTILE: dict[str, str] = runpy.run_path(str(HERE / "hostile_strings.py"))["HOSTILE"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    SMALL["write_workspace"](folder)
    return folder


def nexus(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints when it refuses."""
    patch.setenv(MARK, "as the system has them")
    patch.setattr(sys, "argv", ["nexus", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    PROCESS.deafen()
    said = "".join(capsys.readouterr())
    assert end.value.code == 2, said
    return said


def steers(text: str) -> list[str]:
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\t"]


@pytest.mark.parametrize("place", ["teacher", "source", "kind"])
def test_hostile_names_are_refused_and_printed_as_text(
    place: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Take `visible` out of `_say` and `_say_for_all` in cli.py to see it fail."""
    changes: dict[str, Any] = {
        "teacher": lambda text: {"teacher": {"kind": "local", "model": f"{text}/x/y"}},
        "source": lambda text: {"data": {"sources": [{"kind": "jsonl", "path": f"./{text}"}]}},
        "kind": lambda text: {"student": {"kind": text, text: text}},
    }
    for name, text in list(HOSTILE.items())[:: 1 if place == "kind" else 4]:
        values = SMALL["RECIPE"] | changes[place](text) | {"output": f"run-{place}"}
        recipe = workspace / "hostile.yaml"
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8", errors="surrogatepass")
        said = nexus(monkeypatch, capsys, "distill", str(recipe))
        assert not steers(said), name
        assert "nexus: " in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["a\x1b[2J\x1b]0;x\x07", "\u202eyaml", "[bold]x[/]"])
def test_a_recipe_may_be_called_anything(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = nexus(monkeypatch, capsys, "distill", name)
    assert not steers(said) and "does not exist" in said
