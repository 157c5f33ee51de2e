"""A process that was killed holds its lock until the system has taken all of it apart."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from nexus.lock import acquire

HOLD = """
import sys, time
from pathlib import Path
from nexus.lock import acquire
memory = bytearray(b"1") * 2**30
with acquire(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_that_still_gives_back_its_memory_is_waited_for(tmp_path: Path) -> None:
    """To see it fail: in nexus/lock.py, `or int(fields[5]) & _EXITING` left out."""
    for number in range(3):
        run = tmp_path / str(number)
        command = [sys.executable, "-c", HOLD, str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "held\n"
            process.kill()
            time.sleep(0.005)  # the signal is on its way
            with acquire(run):
                pass
