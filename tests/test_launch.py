"""The process is started again at most once, with settings that leave a user's own alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nexus import launch

PROGRAM = (
    "import os, sys\n"
    "from nexus.launch import MARK, relaunch\n"
    "before = os.environ.get(MARK)\n"
    "relaunch()\n"
    "print(before, '|', os.environ.get(MARK), '|', sys.argv[1:], '|', os.getpid())\n"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (launch.MARK, "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.platform, "system", lambda: "Darwin")
    assert launch.memory_settings() == {}


def test_an_allocator_of_the_users_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    assert launch.memory_settings() == {}


def test_a_setting_of_the_users_own_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.platform, "system", lambda: "Linux")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert "THP_MEM_ALLOC_ENABLE" not in launch.memory_settings()


def test_what_is_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.platform, "system", lambda: "Linux")
    settings = launch.memory_settings()
    words = launch.describe(settings)
    assert ("huge pages" in words) == ("THP_MEM_ALLOC_ENABLE" in settings)
    assert ("tcmalloc" in words) == ("LD_PRELOAD" in settings)
    assert "fewer kernels kept" in words


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.backends.mkldnn.is_available(),
    reason="no such cache",
)
def test_memory_does_not_grow_with_the_shapes_that_were_met() -> None:
    """Each number of rows has a kernel of its own. To see it fail: do not set the capacities."""
    program = (
        "import ctypes, torch\n"
        "weight = torch.randn(512, 512, dtype=torch.bfloat16)\n"
        "def held():\n"
        "    return int(open('/proc/self/statm').read().split()[1])\n"
        "def meet(first, last):\n"
        "    for rows in range(first, last):\n"
        "        torch.mm(torch.ones(rows, 512, dtype=torch.bfloat16), weight)\n"
        "    ctypes.CDLL(None).malloc_trim(0)\n"
        "    return held()\n"
        "first = meet(1, 60)\n"
        "kept = meet(60, 100) - first > 16\n"
        "early = meet(100, 200)\n"
        "print((meet(200, 700) - early) * 4096 if kept or CAPPED else 0)\n"
    )

    def grown(settings: dict[str, str]) -> int:
        kept = {name: value for name, value in settings.items() if "CACHE" in name}
        environment = {**os.environ, **kept, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", program.replace("CAPPED", str(bool(kept)))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    without = grown({})
    if without < 20 << 20:
        pytest.skip("on this processor no kernels are kept")
    assert grown(launch.memory_settings()) < 0.3 * without


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is set elsewhere")
def test_a_process_restarts_once_with_its_arguments_and_its_number() -> None:
    environment = {key: value for key, value in os.environ.items() if key != launch.MARK}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--some", "argument"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    out, _ = process.communicate(timeout=60)
    before, after, arguments, pid = (part.strip() for part in out.strip().split("|"))
    assert before == after != "None"  # it printed in the second life only
    assert arguments == "['--some', 'argument']"
    assert int(pid) == process.pid  # whoever waits for it still can


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell children")
def test_a_process_ends_with_its_parent() -> None:
    """To see it fail: do not call prctl."""
    child = (
        "import signal, time; from nexus.launch import end_with_parent\n"
        "end_with_parent(signal.SIGKILL); print('here', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.kill()
        process.communicate(timeout=30)  # the child holds the pipe open for as long as it lives
