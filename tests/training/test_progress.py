"""The live view holds every fact a person waits for, with a terminal and without."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from nexus.training.progress import View, duration

VALUES = {
    "loss": 1.2345,
    "terms": {"task": 2.3456, "out[put]": 0.7654},
    "kl": 0.4321,
    "agreement": 0.6283,
    "targets": 100,
    "gradient_norm": 0.5,
    "tokens_per_second": 12345.6,
    "peak_memory_gib": 1.5,
    "learning_rate": 1e-3,
}
FACTS = [
    r"loss 1\.2345",
    r"task 2\.3456",
    r"out\[put\] 0\.7654",
    r"KL\(T=1\) 0\.4321",
    r"agreement 62\.8%",
    r"tokens/s 12,346",
    r"peak memory 1\.50 GiB",
    r"time left ",
]


def shown(*, terminal: bool, width: int = 200, steps: int = 5, first: int = 0) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system=None, soft_wrap=not terminal,
        _environ={},
    )  # fmt: skip
    with View("train", first, steps, console=console) as view:
        for step in range(first + 1, steps + 1):
            view.show(step, VALUES)
    return file.getvalue()


def test_without_a_terminal_every_line_says_everything() -> None:
    lines = shown(terminal=False).splitlines()
    assert len(lines) == 5
    for step, line in enumerate(lines, 1):
        assert line.startswith(f"train {step}/5 ")
        for fact in FACTS:
            assert re.search(fact, line), fact
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_with_a_terminal_the_panel_says_everything(width: int) -> None:
    """However narrow; a term's name is text, not markup."""
    panel = shown(terminal=True, width=width).rpartition("distilling")[2]
    assert "5/5" in panel
    for fact in FACTS:
        assert re.search(fact.rstrip() + r"\b" if fact.endswith(" ") else fact, panel), fact


def test_a_long_run_prints_some_forty_lines_the_first_and_the_last_among_them() -> None:
    lines = shown(terminal=False, steps=1013).splitlines()
    assert 38 <= len(lines) <= 44
    assert lines[0].startswith("train 1/1013 ") and lines[-1].startswith("train 1013/1013 ")


def test_a_run_that_goes_on_starts_where_it_was() -> None:
    lines = shown(terminal=False, steps=1013, first=500).splitlines()
    assert lines[0].startswith("train 501/1013 ")


def test_steps_without_the_teacher_show_no_comparison_with_it() -> None:
    file = io.StringIO()
    with View("train", 0, 1, console=Console(file=file, width=200, _environ={})) as view:
        view.show(1, {k: v for k, v in VALUES.items() if k not in ("kl", "agreement")})
    assert "task 2.3456" in file.getvalue() and "KL" not in file.getvalue()


def test_quiet_is_quiet() -> None:
    file = io.StringIO()
    with View("train", 0, 1, quiet=True, console=Console(file=file, force_terminal=True)) as view:
        view.show(1, VALUES)
    assert file.getvalue() == ""


def test_it_speaks_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with View("train", 0, 1) as view:
        view.show(1, VALUES)
    out, err = capsys.readouterr()
    assert out == "" and "train 1/1" in err


def test_the_time_left_is_that_of_the_steps_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("nexus.training.progress.time.monotonic", lambda: now)
    file = io.StringIO()
    view = View("train", 10, 30, console=Console(file=file, width=300, _environ={}))
    for step in range(11, 16):
        now += 2.5
        view.show(step, VALUES)
    left = re.findall(r"time left (.+)", file.getvalue())
    assert left[:2] == ["–", "–"]
    assert left[-1] == "38 s"  # 15 steps of 2.5 s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
        (200_000.0, "55 h 33 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_view_is_closed_after_a_failure() -> None:
    """A terminal must get its cursor back."""
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    fail: Callable[[], None] = lambda: (_ for _ in ()).throw(RuntimeError("broken"))  # noqa: E731
    with pytest.raises(RuntimeError, match="broken"), View("t", 0, 2, console=console) as view:
        view.show(1, VALUES)
        fail()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_the_last_held_out_point_stays_in_sight() -> None:
    file = io.StringIO()
    console = Console(file=file, width=200, color_system=None, soft_wrap=True, _environ={})
    with View("train", 0, 3, console=console) as view:
        view.show(1, VALUES)
        view.show(2, {**VALUES, "heldout_kl": 0.5})
        view.show(3, VALUES)
    first, second, third = file.getvalue().splitlines()
    assert "held-out" not in first
    assert all("held-out KL 0.5000 (step 2)" in line for line in (second, third))
