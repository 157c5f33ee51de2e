"""The other side of `template_worker`: starts it, asks it, and ends it when it is stuck."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import IO, cast

from nexus.data import template_worker
from nexus.data.template_worker import Answer, Conversation, Request, receive, send
from nexus.errors import NexusError

WALL_SECONDS = 60
"""For an answer when the system keeps no account of a process's time, or the process is stuck."""

KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "TMPDIR", "LANG")
"""What the process sees of the environment: no secrets."""


class Sandbox:
    """A process in which chat templates are rendered, started when it is needed.

    One is enough for all templates, and starting it takes a moment: see `shared`.

    Args:
        seconds: Of processor time that one conversation may take, in all its beginnings.
    """

    def __init__(self, seconds: float = template_worker.CPU_SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._complaints: IO[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def render(
        self, template: str, variables: dict[str, str], conversations: Sequence[Conversation]
    ) -> list[Answer]:
        """One answer for each conversation; but after a `fault` there are no more.

        Raises:
            NexusError: if no such process can be started here.
        """
        with self._lock:
            try:
                return self._asked(template, variables, conversations, hurried=True)
            except _Ended:
                # Some answers went with it. Which conversation was it?
                return self._asked(template, variables, conversations, hurried=False)

    def _asked(
        self,
        template: str,
        variables: dict[str, str],
        conversations: Sequence[Conversation],
        *,
        hurried: bool,
    ) -> list[Answer]:
        request: Request = {
            "template": template,
            "variables": variables,
            "conversations": list(conversations),
            "seconds": self._seconds,
            "hurried": hurried,
        }
        answers: list[Answer] = []
        process = self._running()
        patience = threading.Timer(WALL_SECONDS + self._seconds * len(conversations), process.kill)
        patience.daemon = True
        patience.start()
        try:
            most = send(cast(IO[bytes], process.stdin), request)
            for _ in conversations:
                answers.append(self._answer(process, most))
                if "fault" in answers[-1]:
                    break
        except BrokenPipeError:
            answers.append({"fault": self._ended(process)})
        finally:
            patience.cancel()
            ended = process.poll() is not None
            if ended or len(answers) < len(conversations):
                self.close()
        if ended and hurried and len(conversations) > 1:
            raise _Ended
        return answers

    def _answer(self, process: subprocess.Popen[bytes], asked: int) -> Answer:
        # A character takes up to 12 bytes of JSON.
        most = 12 * (template_worker.OUTPUT_CHARACTERS + 4 * asked)
        try:
            answer: Answer | None = receive(cast(IO[bytes], process.stdout), most)
        except ValueError as error:
            return {"fault": f"what it writes cannot be read: {error}"}
        return answer or {"fault": self._ended(process)}

    def _running(self) -> subprocess.Popen[bytes]:
        # A fork of this process must not talk into the same pipes.
        if self._process is not None and self._owner == os.getpid():
            return self._process
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", template_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={
                **{name: os.environ[name] for name in KEPT if name in os.environ},
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TRANSFORMERS_VERBOSITY": "error",
            },
            start_new_session=True,
        )
        return self._process

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """Why the process is no more."""
        code = process.wait()
        if sys.platform != "win32" and code == -signal.SIGPROF:
            return f"it takes more than {self._seconds:g} seconds"
        if code < 0:
            return f"the process that renders it was ended by signal {-code}"
        complaints = cast(IO[bytes], self._complaints)
        complaints.seek(0)
        last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
        raise NexusError(
            "the process that renders chat templates ended by itself "
            f"({last[0] if last else f'code {code}'}). Check that `{sys.executable} -m "
            f"{template_worker.__name__}` starts"
        )

    def close(self) -> None:
        """End the process, if it is ours and there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, self._complaints):
            with suppress(BrokenPipeError):
                cast(IO[bytes], pipe).close()


class _Ended(Exception):
    """The process was ended while it was giving many answers."""


@cache
def shared() -> Sandbox:
    """The one sandbox of this process."""
    return Sandbox()
