"""One writer a run directory: held, passed on, given back, and taken over from the dead only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nexus import lock
from nexus.errors import UsageError
from nexus.launch import MARK
from nexus.lock import FILE_NAME, Busy, Holder, acquire

HOLD = """
import sys
from pathlib import Path
from nexus.lock import acquire
with acquire(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

REPLACED = """
import os, sys
from pathlib import Path
from nexus.launch import relaunch
from nexus.lock import acquire
lock = acquire(Path(sys.argv[1]))
relaunch(lock.passed_on)
print(os.getpid(), lock.release is None, flush=True)
sys.stdin.read()
lock.release()
"""

WITH_CHILD = """
import os, sys, time
from pathlib import Path
from nexus.lock import acquire
lock = acquire(Path(sys.argv[1]))
if not (child := os.fork()):
    time.sleep(600)
print(child, flush=True)
sys.stdin.read()
"""


def start(program: str, run: Path) -> subprocess.Popen[str]:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    return subprocess.Popen([sys.executable, "-c", program, str(run)], env=environment, **pipes)


@contextlib.contextmanager
def started(program: str, run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first line that it says."""
    process = start(program, run)
    assert process.stdout
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def leave(run: Path, **changes: Any) -> Holder:
    """A lock that some process left behind."""
    run.mkdir(parents=True, exist_ok=True)
    holder = replace(Holder.this_process(), **changes)
    (run / FILE_NAME).write_text(json.dumps(asdict(holder)))
    return holder


def test_the_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    with started(HOLD, tmp_path / "run") as (process, said):
        assert said == "held\n"
        with pytest.raises(Busy) as caught:
            acquire(tmp_path / "run")
        holder = Holder(**json.loads((tmp_path / "run" / FILE_NAME).read_text()))
        words = (str(tmp_path / "run"), f"process {process.pid}", holder.host, holder.since)
        assert not [word for word in words if word not in str(caught.value)]
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, reaped: bool) -> None:
    said: list[str] = []
    with started(HOLD, tmp_path / "run") as (process, _):
        process.kill()
        if reaped:
            process.wait()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with acquire(tmp_path / "run", said.append):
            pass
    assert len(said) == 1 and f"process {process.pid}" in said[0] and "taken over" in said[0]


def test_a_lock_is_given_back_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("a run")
    for name, left in (("run", ["recipe.yaml"]), ("new", None)):
        with acquire(tmp_path / name) as held:
            assert (tmp_path / name / FILE_NAME).is_file()
        held.release()
        there = tmp_path / name
        assert left == ([path.name for path in there.iterdir()] if there.exists() else None)


def test_one_process_holds_a_directory_once_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with acquire(tmp_path / "run"):
        for name in ("run", "link", "run/../run"):
            with pytest.raises(Busy, match=f"process {os.getpid()} "):
                acquire(tmp_path / name)
    with acquire(tmp_path / "link"):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "another start of this machine"},
        {"started": 1},
        {"pid": 2**22 + 1},
        {"boot": "another start", "since": "2999-01-01 00:00:00 +0000"},
        {"host": "another name of this machine", "started": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_stale_lock_is_taken_over_with_a_notice(tmp_path: Path, changes: Any) -> None:
    """To see it fail, have `is_alive` compare the process id alone."""
    holder, said = leave(tmp_path / "run", **changes), list[str]()
    with acquire(tmp_path / "run", said.append):
        now = json.loads((tmp_path / "run" / FILE_NAME).read_text())
        assert now == {**asdict(Holder.this_process()), "since": now["since"]}
    assert len(said) == 1 and str(holder) in said[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "\x00" * 50])
def test_a_lock_that_says_nothing_and_that_nobody_holds_is_taken(tmp_path: Path, text: str) -> None:
    leave(tmp_path / "run")
    (tmp_path / "run" / FILE_NAME).write_text(text)
    with acquire(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / FILE_NAME).read_text())["pid"] == os.getpid()


def test_a_lock_that_was_given_back_while_it_was_opened_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder deletes its file, and a third process makes a new one, between open and lock.

    To see it fail, drop the look at `_is_at` in `_attempt`.
    """
    run, real, others = tmp_path / "run", lock._lock, list[lock.Lock]()
    first = acquire(run)
    leave(run, pid=2**22 + 1)  # it will be gone when its file is read

    def late(descriptor: int) -> bool:
        monkeypatch.setattr(lock, "_lock", real)
        first.release()
        others.append(acquire(run))
        return real(descriptor)

    monkeypatch.setattr(lock, "_lock", late)
    with pytest.raises(Busy):
        acquire(run)
    others[0].release()
    assert not run.exists()


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    """A network file system may not tell whether its process is alive."""
    leave(tmp_path / "run", host="elsewhere", boot="its own", pid=7)
    before = (tmp_path / "run" / FILE_NAME).read_bytes()
    with pytest.raises(Busy, match=r"process 7 on elsewhere, (.|\n)* delete .*run/\.lock"):
        acquire(tmp_path / "run")
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == before
    (tmp_path / "run" / FILE_NAME).unlink()
    with acquire(tmp_path / "run"):
        pass


def test_where_the_system_has_no_locks_the_living_are_respected_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with started(HOLD, tmp_path / "run"), pytest.raises(Busy):
        acquire(tmp_path / "run")
    with acquire(tmp_path / "run"), pytest.raises(Busy):
        acquire(tmp_path / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are not replaced elsewhere")
def test_the_lock_outlives_the_program_that_took_it(tmp_path: Path) -> None:
    """To see it fail, do not set the descriptor inheritable in `relaunch`."""
    process = start(REPLACED, tmp_path / "run")
    assert process.stdout and process.stdin
    refused = 0
    while not refused or process.stdout not in _readable(process.stdout):
        if (tmp_path / "run" / FILE_NAME).exists():
            with pytest.raises(Busy, match=f"process {process.pid} "):
                acquire(tmp_path / "run")
            refused += 1
        time.sleep(0.001)
    assert process.stdout.readline() == f"{process.pid} False\n"
    with pytest.raises(Busy):
        acquire(tmp_path / "run")
    process.communicate("")
    assert not (tmp_path / "run").exists()


def _readable(stream: Any) -> list[Any]:
    import select

    return select.select([stream], [], [], 0)[0]


def test_a_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    """To see it fail, do not register `forget` for the child."""
    with started(WITH_CHILD, tmp_path / "run") as (process, child):
        try:
            process.kill()
            process.wait()
            with acquire(tmp_path / "run"):
                pass
        finally:
            os.kill(int(child), 9)


def test_a_lock_stays_when_the_directory_is_put_aside(tmp_path: Path) -> None:
    run, aside = tmp_path / "run", tmp_path / "aside"
    with acquire(run) as held:
        (run / "recipe.yaml").write_text("old")
        run.rename(aside)
        held.follow(aside)
        assert [path.name for path in aside.iterdir()] == ["recipe.yaml"]
        with pytest.raises(Busy):
            acquire(run)
        with acquire(aside):
            pass
    assert not run.exists()


def test_whoever_was_quicker_keeps_the_place_of_a_directory_put_aside(tmp_path: Path) -> None:
    run, aside = tmp_path / "run", tmp_path / "aside"
    held = acquire(run)
    run.rename(aside)
    with acquire(run), pytest.raises(Busy):
        held.follow(aside)
    assert not run.exists() and not aside.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "inside a file"])
def test_what_is_of_somebody_else_is_left_alone(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "directory":
        place.mkdir()
        (place / "precious").write_text("mine")
    else:
        place.write_text("mine")
    words = {"file": "is a file", "directory": "holds no run", "inside a file": "cannot be written"}
    with pytest.raises(UsageError, match=words[kind]):
        acquire(place / "run" if kind == "inside a file" else place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["place", "precious"] if kind == "directory" else ["place"]
    )


def test_what_a_process_left_while_it_began_is_no_obstacle(tmp_path: Path) -> None:
    leave(tmp_path, pid=2**22 + 1)
    (tmp_path / ".tmp-recipe.yaml").write_text("half")
    with acquire(tmp_path):
        pass


def test_what_a_lock_says_cannot_command_a_terminal(tmp_path: Path) -> None:
    leave(tmp_path / "run", host="\x1b[2J\u202eelsewhere", boot="its own")
    with pytest.raises(Busy) as caught:
        acquire(tmp_path / "run")
    assert not set("\x1b\u202e") & set(str(caught.value))


def test_a_process_that_is_about_to_say_who_it_is_is_waited_for(tmp_path: Path) -> None:
    """Between taking the system's lock and writing its name."""
    (tmp_path / "run").mkdir()
    descriptor = os.open(tmp_path / "run" / FILE_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Busy, match="does not say who it is"):
        acquire(tmp_path / "run")
    lock._write(descriptor)
    with pytest.raises(Busy, match=f"process {os.getpid()} "):
        acquire(tmp_path / "run")
    os.close(descriptor)


@pytest.mark.parametrize("other", ["train.jsonl", "student", "checkpoints"])
def test_a_folder_with_a_recipe_and_other_things_is_no_run(tmp_path: Path, other: str) -> None:
    """`output: .` beside somebody's recipe.yaml would write over it, and --fresh rename the folder.

    Take `_RECORDS` out of `refuse_foreign` to see it fail.
    """
    (tmp_path / "recipe.yaml").write_text("output: .")
    with acquire(tmp_path):
        pass  # as a run that has just begun
    (tmp_path / other).mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        acquire(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with acquire(tmp_path):
        pass


@pytest.mark.parametrize("place", ["/", "/usr", "/etc/hostname"])
def test_places_of_the_system_are_no_runs(place: str) -> None:
    with pytest.raises(UsageError, match="'output' is"):
        acquire(Path(place))
