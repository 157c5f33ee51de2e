"""Who comes first has the lock, however close the other is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nexus import lock
from nexus.lock import acquire

RACES = """
import os, signal, sys
from pathlib import Path
from nexus.lock import Busy, acquire

def racer(run, go, told, end):
    signal.alarm(60)
    os.read(go, 1)
    try:
        lock = acquire(run)
        os.write(told, b"W%07d" % os.getpid())
    except Busy as busy:
        lock = None
        named = [word for word in str(busy).split() if word.isdigit()]
        os.write(told, b"B%07d" % int(named[0]))
    os.read(end, 1)
    if lock:
        lock.release()
    os._exit(0)

def dead_holder(run):
    if not os.fork():
        acquire(run)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()

for number in range(50):
    run = Path(sys.argv[1]) / f"runs{number}" / "run"
    if number % 3:
        dead_holder(run)  # leaves its lock
    if number % 3 == 2:
        (run / "recipe.yaml").write_text("a run")
    pipes = [os.pipe() for _ in range(3)]
    (go, start), (told, tell), (end, finish) = pipes
    for _ in range(2):
        if not os.fork():
            racer(run, go, tell, end)
    os.write(start, b"..")
    answers = sorted(os.read(told, 8) for _ in range(2))
    assert {answer[:1] for answer in answers} == {b"B", b"W"}, (number, answers)
    assert answers[0][1:] == answers[1][1:], (number, answers)
    os.write(finish, b"..")
    os.wait(), os.wait()
    left = sorted(path.name for path in run.iterdir()) if run.exists() else []
    assert left == (["recipe.yaml"] if number % 3 == 2 else []), (number, left)
    for pair in pipes:
        for descriptor in pair:
            os.close(descriptor)
print("all")
"""


def test_two_processes_at_the_same_moment_have_one_winner_each_time(tmp_path: Path) -> None:
    """Fifty races, for directories that are new, left by a dead process, and hold a run.

    To see it fail, take the lock without `fcntl.flock` in `_lock`.
    """
    done = subprocess.run(
        [sys.executable, "-c", RACES, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "all\n", done.stderr


def test_who_made_the_file_has_it_though_another_looked_at_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process opens the new file, locks it, finds it empty and lets go of it.

    To see it fail: in `_attempt`, forget what was made before. Then both wait for a name.
    """
    real, waits = lock._lock, iter(range(2))

    def looked_at(descriptor: int) -> bool:
        monkeypatch.setattr(lock, "_lock", real)
        return False

    monkeypatch.setattr(lock, "_lock", looked_at)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: next(waits))
    with acquire(tmp_path / "run"):
        pass
