"""`python -m nexus.job PROCESSES ARGUMENT…`: one attempt at a command with several processes.

It is torchrun, without its reports of what the processes themselves have said already, and with an
exit code that tells what became of them.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from nexus.errors import Interrupted, NexusError, UsageError
from nexus.launch import end_with_parent
from nexus.supervise import FATAL


def main(arguments: list[str]) -> int:
    """Run `nexus ARGUMENT…` in as many processes as the first argument says."""
    end_with_parent(signal.SIGTERM)
    logging.disable(logging.ERROR)
    processes, *rest = arguments
    torchrun: Any = run  # untyped
    options = torchrun.parse_args(
        [
            *("--standalone", "--nproc-per-node", processes, "--max-restarts", "0"),
            *("--local-addr", "127.0.0.1", "-m", "nexus", *rest),
        ]
    )
    try:
        torchrun.run(options)
    except ChildFailedError as failed:
        return verdict(failure.exitcode for failure in failed.failures.values())
    except SignalException:
        return Interrupted.exit_code
    return 0


def verdict(codes: Iterable[int]) -> int:
    """What to make of the exit codes of all processes: a mistake, a finding, a death or a stop."""
    found = set(codes)
    for known in (UsageError.exit_code, NexusError.exit_code):
        if known in found:
            return known
    killed = [-code for code in found if code < 0 and -code != signal.SIGTERM]
    if killed:
        return FATAL + min(killed)
    return max(found - {-signal.SIGTERM}, default=Interrupted.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
