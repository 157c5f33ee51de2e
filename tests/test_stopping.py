"""A signal stops a process in the manner that suits what it does, and never takes long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from nexus.errors import Interrupted
from nexus.stopping import SIGNALS, Halt, Stopping

SOON = 10.0
Program = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def listening() -> Iterator[Stopping]:
    stopping = Stopping()
    before = [signal.getsignal(number) for number in SIGNALS]
    stopping.listen()
    yield stopping
    stopping.deafen()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture
def program() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that listens to its signals, and waits until it says that it is ready."""
    all_started = []

    def start(text: str) -> subprocess.Popen[str]:
        lines = "import os, signal, subprocess, sys, time\nfrom nexus.stopping import *\n"
        started = subprocess.Popen(
            [sys.executable, "-c", lines + textwrap.dedent(text)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        all_started.append(started)
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        return started

    yield start
    for started in all_started:
        started.kill()
        started.communicate()


def test_nobody_asks_unless_a_signal_comes(listening: Stopping) -> None:
    assert not Stopping()() and not listening()
    with listening.gently():
        pass


@pytest.mark.parametrize("number", SIGNALS)
def test_while_training_a_signal_waits_for_whoever_asks(
    listening: Stopping, number: signal.Signals
) -> None:
    with pytest.raises(Interrupted, match="training was done"), listening.gently():
        signal.raise_signal(number)
        assert listening()
        reached = True
    assert reached


@pytest.mark.parametrize("number", SIGNALS)
def test_elsewhere_a_signal_unwinds_what_is_open(
    listening: Stopping, number: signal.Signals
) -> None:
    """Past whoever catches exceptions, and training does not begin after that.

    To see it fail: make `Halt` an Exception.
    """
    closed = False
    with pytest.raises(Halt, match=number.name), listening.promptly():
        try:
            signal.raise_signal(number)
        except Exception:
            pytest.fail("it was caught")
        finally:
            closed = True
    assert closed
    with pytest.raises(Interrupted, match="before training"), listening.gently():
        pytest.fail("it began")


def test_the_manner_is_as_before_after_each_block(listening: Stopping) -> None:
    with pytest.raises(Halt), listening.promptly():
        with listening.gently():
            pass
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_anything_is_open_a_signal_ends_the_process(
    program: Program, number: signal.Signals
) -> None:
    started = program(
        """
        PROCESS.listen()
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    started.send_signal(number)
    _, said = started.communicate(timeout=SOON)
    assert started.returncode == Interrupted.exit_code == 75
    assert number.name in said and "same command again" in said and "Traceback" not in said


def test_a_signal_is_not_lost_between_two_programs(program: Program) -> None:
    """As when the process is started again with other memory settings.

    To see it fail: let `deferred` do nothing.
    """
    started = program(
        """
        if "again" not in os.environ:
            PROCESS.listen()
            with PROCESS.deferred():
                print("ready", flush=True)
                time.sleep(1)
                os.environ["again"] = "yes"
                again = "import sys; from nexus.stopping import *; print('born', flush=True); "
                again += "PROCESS.listen(); time.sleep(60)"
                os.execve(sys.executable, [sys.executable, "-c", again], os.environ)
        """
    )
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=SOON)
    assert (started.returncode, out) == (75, "born\n")


def test_a_halt_that_native_code_swallows_is_raised_again(program: Program) -> None:
    """As in a destructor, or in what a compiled library calls back.

    To see it fail: let `_miss` do nothing.
    """
    started = program(
        """
        class Closing:
            def __del__(self):
                print("ready", flush=True)
                time.sleep(60)

        PROCESS.listen()
        try:
            with PROCESS.promptly():
                closing = Closing()
                del closing
                time.sleep(60)
        except Halt as halt:
            print(halt)
        """
    )
    started.send_signal(signal.SIGUSR1)
    out, said = started.communicate(timeout=SOON)
    assert (started.returncode, out, said) == (0, "SIGUSR1\n", "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of GNU's C++ library")
@pytest.mark.parametrize(
    ("sent", "code"), [(True, Interrupted.exit_code), (False, -signal.SIGABRT)]
)
def test_a_halt_in_native_code_that_lets_nothing_through_ends_resumably(
    program: Program, sent: bool, code: int
) -> None:
    """C++ calls `std::terminate` then, which aborts, as it still does without a signal.

    To see it fail: let `_mind_native_code` return at once.
    """
    started = program(
        f"""
        import ctypes
        native = ctypes.CDLL("libstdc++.so.6")
        PROCESS.listen()
        with PROCESS.promptly():
            try:
                print("ready", flush=True)
                time.sleep(60 if {sent} else 0)
            except Halt:
                pass
            native._ZSt9terminatev()
        """
    )
    if sent:
        started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=SOON)
    assert started.returncode == (Interrupted.exit_code if sent else -signal.SIGABRT)
    assert ("Run the same command again to continue" in said) == sent


BUSY = """
    import ctypes
    def forever():
        "In native code that no signal interrupts: a mutex that is locked twice."
        mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
"""


def test_a_second_signal_ends_the_process_whatever_it_does(program: Program) -> None:
    """Also where Python's own handlers are never reached, and with all that it has started."""
    started = program(
        BUSY
        + """
    PROCESS.listen()
    nested = "import os, time; os.fork() or print(os.getpid(), flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE)
    grandchild = int(child.stdout.readline())
    with PROCESS.gently():
        print("ready", flush=True)
        print(child.pid, grandchild, flush=True)
        forever()
        """
    )
    assert started.stdout is not None
    family = [int(pid) for pid in started.stdout.readline().split()]
    assert len(family) == 2 and all(map(is_alive, family))
    started.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    assert started.wait(SOON) == 75
    deadline = time.monotonic() + SOON
    while any(map(is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, family))


def is_alive(pid: int) -> bool:
    """Whether it runs: a dead one that nobody has waited for does not count."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_takes_longer_than_the_grace_is_not_waited_for(program: Program) -> None:
    started = program(
        BUSY
        + """
    s = Stopping(grace_seconds=0.5)
    s.listen()
    with s.gently(lambda: "the run goes on from step 7"):
        print("ready", flush=True)
        forever()
        """
    )
    started.send_signal(signal.SIGUSR1)
    _, said = started.communicate(timeout=SOON)
    assert started.returncode == 75
    assert "longer than 0.5 s; the run goes on from step 7" in said


def test_what_swallows_everything_is_not_waited_for_either(program: Program) -> None:
    started = program(
        """
        s = Stopping(grace_seconds=0.5)
        s.listen()
        with s.promptly():
            while True:
                try:
                    print("ready", flush=True)
                    time.sleep(60)
                except BaseException:
                    pass
        """
    )
    started.send_signal(signal.SIGTERM)
    assert started.wait(SOON) == 75


def test_under_torchrun_an_echo_is_no_second_signal(program: Program) -> None:
    """From the terminal and from torchrun, which passes on what it got from the terminal."""
    started = program(
        """
        os.environ["TORCHELASTIC_RUN_ID"] = "run"
        PROCESS.listen()
        with PROCESS.gently():
            print("ready", flush=True)
            while not PROCESS():
                time.sleep(0.01)
            time.sleep(0.5)
            os._exit(3)
        """
    )
    started.send_signal(signal.SIGINT)
    time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    assert started.wait(SOON) == 3


def test_a_forked_child_has_its_signals_to_itself(listening: Stopping) -> None:
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert not listening()
