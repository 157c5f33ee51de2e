"""Being asked to stop: by SIGINT, SIGTERM or SIGUSR1, resumably."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nexus.errors import Interrupted


class Stopping:
    """Whether to stop. While training, a signal waits for the step to end; else it acts at once.

    Nothing is lost either way: every file of a run is written whole or not at all. A second signal
    ends the process on the spot.
    """

    def __init__(self) -> None:
        self._asked = False
        self._gentle = False

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Inside, signals only set the flag, which whoever asks acts upon."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False
        if self._asked:
            raise Interrupted("stopped when training was done")

    def listen(self, say: Callable[[str], None]) -> None:
        """Take the signals of this process."""

        def hear(number: int, frame: FrameType | None) -> None:
            if self._asked:
                sys.exit(Interrupted.exit_code)
            self._asked = True
            if not self._gentle:
                raise Interrupted(f"stopped by {signal.Signals(number).name}")
            say("stopping after this step; once more to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, hear)
