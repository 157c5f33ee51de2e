"""Being asked to stop: by SIGINT, SIGTERM or SIGUSR1, resumably and within seconds."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from types import FrameType
from typing import NoReturn

from nexus.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

GRACE_SECONDS = 8.0
"""How long a step may go on after a signal before the process ends without it."""

ECHO_SECONDS = 2.0
"""Under torchrun one Ctrl-C reaches a process twice: from the terminal, and from torchrun."""


LOOK_SECONDS = 0.1
"""How soon a `Halt` that went astray is raised again."""


class _NobodyListens(Exception):
    """The signals were given back."""


class Halt(BaseException):
    """Unwinds the program from where a signal found it. No `except Exception` can swallow it."""


class Manner(Enum):
    """What a signal does."""

    LEAVE = auto()
    """End the process on the spot: nothing is open that would have to be closed."""
    UNWIND = auto()
    """Raise `Halt`: locks are released and files closed on the way out."""
    WAIT = auto()
    """Raise a flag, which whoever asks acts upon."""


class Stopping:
    """Whether to stop, and what a signal does while that has not been asked yet.

    Nothing is lost in any manner, for every file of a run is written whole or not at all. Whatever
    the main thread is busy with, the process is gone `grace_seconds` after the first signal and
    right after the second one: a thread sees to that, since Python itself hears of a signal only
    when a long computation, a compiler or a wait for another process returns.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self._asked = False
        self._manner = Manner.LEAVE
        self._reached: Callable[[], str] = str
        self._before: dict[signal.Signals, object] = {}
        self._writer = -1
        self._lost: signal.Signals | None = None
        self._complain = sys.unraisablehook

    def __call__(self) -> bool:
        return self._asked

    @property
    def is_unwinding(self) -> bool:
        """Whether a `Halt` is on its way out."""
        return self._asked and self._manner is Manner.UNWIND and bool(self._before)

    @contextmanager
    def promptly(self) -> Iterator[None]:
        """Inside, a signal raises `Halt`."""
        if self is PROCESS:
            _mind_native_code()
        with self._behaving(Manner.UNWIND):
            yield

    @contextmanager
    def gently(self, reached: Callable[[], str] = str) -> Iterator[None]:
        """Inside, a signal only sets the flag.

        Args:
            reached: says what the run has come to, if the time is up before anybody has acted.

        Raises:
            Interrupted: there was a signal, and nobody inside acted upon it.
        """
        if self._asked:
            raise Interrupted("stopped before training")
        self._reached = reached
        with self._behaving(Manner.WAIT):
            yield
        if self._asked:
            raise Interrupted("stopped when training was done")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, signals wait, also for a program that takes this one's place."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def listen(self) -> None:
        """Take the signals of this process, those included that it was born with."""
        if self._before:
            return
        # The thread inherits the mask, and takes no signal that the main thread holds back.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        threading.Thread(target=self._watch, args=(reader,), name="stopping", daemon=True).start()
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        self._complain, sys.unraisablehook = sys.unraisablehook, self._miss
        os.register_at_fork(after_in_child=self._forget)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def deafen(self) -> None:
        """Give the signals back to whoever had them before."""
        self._asked = False
        if not self._before:
            return
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
        sys.unraisablehook = self._complain
        os.close(self._writer)

    @contextmanager
    def _behaving(self, manner: Manner) -> Iterator[None]:
        before, self._manner = self._manner, manner
        try:
            yield
        finally:
            self._manner = before

    def _hear(self, number: int, frame: FrameType | None) -> None:
        """Python's handler, in the main thread. A second signal is the watching thread's."""
        if self._asked:
            return
        self._asked = True
        match self._manner:
            case Manner.LEAVE:
                leave(f"stopped by {signal.Signals(number).name}")
            case Manner.UNWIND:
                raise Halt(signal.Signals(number).name)
            case Manner.WAIT:
                _tell("stopping after this step; once more to stop at once")

    def _miss(self, unraisable: sys.UnraisableHookArgs) -> None:
        """A `Halt` that met native code which can let no exception through: raised again later."""
        if isinstance(unraisable.exc_value, Halt):
            self._lost = signal.Signals[str(unraisable.exc_value)]
        else:
            self._complain(unraisable)

    def _watch(self, reader: int) -> None:
        """The thread: what arrives in `reader` are numbers of signals, written where they hit."""
        with open(reader, "rb", buffering=0), suppress(_NobodyListens):
            _wait_for_signal(reader)
            until = time.monotonic() + self.grace_seconds
            if "TORCHELASTIC_RUN_ID" in os.environ:
                time.sleep(min(ECHO_SECONDS, self.grace_seconds))
                _drain(reader)
            while (now := time.monotonic()) < until:
                if _wait_for_signal(reader, min(until, now + LOOK_SECONDS)):
                    leave("stopped at once")
                if self._lost is not None:
                    number, self._lost, self._asked = self._lost, None, False
                    os.kill(os.getpid(), number)
                    _wait_for_signal(reader, until)  # that one
            waited = f"stopped, since what was going on took longer than {self.grace_seconds:g} s"
            leave("; ".join(filter(None, (waited, self._reached()))))

    def _forget(self) -> None:
        """In a forked child: its signals are its own."""
        if self._before:
            signal.set_wakeup_fd(-1)
            for number in self._before:
                signal.signal(number, signal.SIG_DFL)
            self._before = {}


PROCESS = Stopping()
"""The one that has this process's signals, once the command line listens."""


_CALLED_BY_NATIVE_CODE = ctypes.CFUNCTYPE(None)
_minded: list[object] = []
"""What native code was told to call, which must not be collected."""


def _mind_native_code() -> None:
    """Leave resumably, too, where a `Halt` meets C++ that lets no exception through.

    Such code ends the program by `std::terminate`, which aborts. It can be told what to call.
    """
    name = "libstdc++.so.6"
    if _minded or not sys.platform.startswith("linux"):
        return
    try:
        library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return  # no such code is there

    def ended() -> None:
        if PROCESS.is_unwinding:
            leave("stopped in the middle of native code")
        _CALLED_BY_NATIVE_CODE(before)()

    set_terminate = library._ZSt13set_terminatePFvvE
    set_terminate.restype = ctypes.c_void_p
    _minded.append(_CALLED_BY_NATIVE_CODE(ended))
    before = set_terminate(_minded[0])


def leave(why: str) -> NoReturn:
    """End process and children now, resumably. Nothing that is open is finished or flushed."""
    _tell(f"nexus: {why}. Run the same command again to continue.")
    _end_children()
    os._exit(Interrupted.exit_code)


def _tell(text: str) -> None:
    """Past Python's buffers, which the interrupted code may be in the middle of using.

    Of several processes the first one speaks for all.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


def _wait_for_signal(reader: int, until: float | None = None) -> bool:
    """Whether one of our signals came before the time was up."""
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            return False
        heard = os.read(reader, 1)
        if not heard:
            raise _NobodyListens
        if heard[0] in SIGNALS:
            return True


def _drain(reader: int) -> None:
    while select.select([reader], [], [], 0)[0] and os.read(reader, 64):
        pass


def _end_children() -> None:
    """Compilers and their workers, which would otherwise work on for nobody."""
    for _ in range(3):  # those that were being started meanwhile, too
        for pid in _descendants(os.getpid()):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """As Linux tells them; elsewhere children notice by themselves that their parent is gone."""
    if not sys.platform.startswith("linux"):
        return []
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in listing.read_text().split()]
    return found + [deeper for child in found for deeper in _descendants(child)]
