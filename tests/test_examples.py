"""Every example runs as it is, and does what it says."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("0*.py"))

Output = Callable[..., str]

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Output]:
    """What an example prints, run as a script: with its own folder in the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    yield run
    sys.modules.pop("tiny", None)


def losses(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"loss (\d+\.\d+)", text)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 80
    assert f"python examples/{path.name}" in text


def test_all_examples_are_tested_here() -> None:
    text = Path(__file__).read_text()
    assert not [path.name for path in EXAMPLES if f'"{path.name}"' not in text]


def test_output(output: Output) -> None:
    first, *_, last = losses(output("01_output.py"))
    assert last < 0.9 * first


def test_divergences(output: Output) -> None:
    text = output("02_divergences.py")
    table = re.findall(r"^(\w+) +(\d+\.\d+) +\d+\.\d+ +\d+\.\d+$", text, re.M)
    values = {name: float(value) for name, value in table}
    ends = [float(value) for value in re.findall(r"beta = \d\.\d:\s+(\d+\.\d+)", text)]
    assert values["symmetric_kl"] == pytest.approx(
        (values["forward_kl"] + values["reverse_kl"]) / 2, abs=2e-3
    )
    assert len(ends) == 5 and 0 < values["total_variation"] < 1


def test_several_teachers(output: Output) -> None:
    first, last, *others = losses(output("03_several_teachers.py"))
    assert last < 0.8 * first and others[1] < 0.8 * others[0]


def test_distill_call(output: Output, tmp_path: Path) -> None:
    text = output("04_distill_call.py")
    assert "continues: " in text
    assert Path(text.split("report: ")[1].strip()).is_relative_to(tmp_path)


def test_lora(output: Output) -> None:
    text = output("05_lora.py")
    first, last = losses(text)
    assert last < 0.8 * first
    assert "merged: " in text


def test_models_can_be_named(output: Output, tmp_path: Path) -> None:
    tiny = runpy.run_path(str(FOLDER / "tiny.py"))
    for name, layers in (("teacher", 3), ("student", 1)):
        tiny["make_model"](layers=layers, seed=layers).save_pretrained(tmp_path / name)
        tiny["make_tokenizer"]().save_pretrained(tmp_path / name)
    names = ("--teacher", str(tmp_path / "teacher"), "--student", str(tmp_path / "student"))
    assert len(losses(output("01_output.py", *names))) == 3
    with pytest.raises(SystemExit):
        output("01_output.py", *names[:2])
