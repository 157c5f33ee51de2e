"""A run that dies is started again, from where it was, and not for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus.supervise import FATAL, Supervisor, without

KILLED = FATAL + signal.SIGKILL
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Rehearsal(Supervisor):
    """Instead of jobs: what each of them would leave behind, and how it would end."""

    def __init__(self, run: Path, *acts: tuple[int, int], restarts: int = 3) -> None:
        self.lines: list[str] = []
        super().__init__(["distill", "--fresh"], 2, run, restarts, self.lines.append)
        self.acts, self.played = list(acts), list[bool]()

    def _attempt(self, *, fresh: bool) -> int:
        self.played.append(fresh)
        code, step = self.acts.pop(0)
        self.run.mkdir(exist_ok=True)
        if not (self.run / "recipe.yaml").exists() or fresh:
            (self.run / "new").touch()
            (self.run / "new").rename(self.run / "recipe.yaml")
        if step:
            (self.run / f"checkpoints/train/step-{step:06d}").mkdir(parents=True, exist_ok=True)
        return code


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_would_be_the_same_again_is_not_repeated(tmp_path: Path, code: int) -> None:
    rehearsal = Rehearsal(tmp_path / "run", (code, 0))
    assert rehearsal() == code
    assert not rehearsal.lines and not rehearsal.acts


def test_a_death_is_followed_by_a_fresh_job_that_does_not_begin_anew(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path / "run", (KILLED, 4), (75, 6), (0, 8))
    assert rehearsal() == 0
    assert rehearsal.played == [True, False, False]
    assert "SIGKILL" in rehearsal.lines[0] and "newest checkpoint" in rehearsal.lines[0]
    assert len(rehearsal.lines) == 2


def test_fresh_is_said_again_if_the_job_died_before_it_was_heard(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").touch()

    class Early(Rehearsal):
        def _attempt(self, *, fresh: bool) -> int:
            if not self.played:
                self.played.append(fresh)
                return self.acts.pop(0)[0]
            return super()._attempt(fresh=fresh)

    rehearsal = Early(run, (KILLED, 0), (KILLED, 2), (0, 0))
    assert rehearsal() == 0
    assert rehearsal.played == [True, True, False]


def test_dying_at_one_place_is_not_repeated_for_ever(tmp_path: Path) -> None:
    """Progress gives all attempts back; standing still uses them up."""
    acts = [(KILLED, 2), (KILLED, 4), (KILLED, 4), (KILLED, 4), (KILLED, 0)]
    rehearsal = Rehearsal(tmp_path / "run", *acts, restarts=2)
    assert rehearsal() == KILLED
    assert not rehearsal.acts
    assert "3 times" in rehearsal.lines[-1] and "SIGKILL" in rehearsal.lines[-1]


def test_old_checkpoints_are_no_progress(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints/train/step-000008").mkdir(parents=True)
    rehearsal = Rehearsal(tmp_path / "run", (KILLED, 8), (KILLED, 8), restarts=1)
    assert rehearsal() == KILLED


def test_options_of_the_supervisor_are_not_passed_on() -> None:
    given = [
        "distill",
        "r.yaml",
        "--processes",
        "2",
        "--set",
        "a=--processes",
        "--restarts=1",
        "-x",
    ]
    kept = without(given, "--processes", "--restarts")
    assert kept == ["distill", "r.yaml", "--set", "a=--processes", "-x"]
