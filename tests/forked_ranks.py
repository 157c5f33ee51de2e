"""Two processes of `nexus`, as torchrun starts them, forked from one that has imported everything.

Told what to do line by line: `{"arguments": […], "said": FILE}`. Answers with the numbers of the
processes, and with their exit codes once both have ended. See test_processes.py.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from typing import Any, NoReturn

from torch._C._distributed_c10d import TCPStore
from tqdm import tqdm

import nexus.pipeline  # noqa: F401  (takes seconds, once)
from nexus.__main__ import main as nexus_main

HOST = "127.0.0.1"

tqdm.set_lock(threading.RLock())
"""Not the usual one, which all forks share: one killed while it holds it would stop the rest."""


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for rank in (0, 1):
            pids.append(os.fork())
            if not pids[-1]:
                live(rank, order)
        store = TCPStore(HOST, order["port"], is_master=True, wait_for_workers=False)
        print(json.dumps(pids), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)
        del store


def live(rank: int, order: dict[str, Any]) -> NoReturn:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR=HOST,
        MASTER_PORT=str(order["port"]), TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    sys.argv = ["nexus", *order["arguments"]]
    code: Any = 70
    try:
        nexus_main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
