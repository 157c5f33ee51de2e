"""Of what many processes have to say alike, one says it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta

Say = Callable[[str], None]
"""Is told in a sentence what begins, or what one should know."""

CONNECT_SECONDS = 5
ECHO_SECONDS = 2.0
"""How long an effect waits for its cause to be told by another process."""


def says(text: str, *, effect: bool = False) -> bool:
    """Whether this process is to say `text`: alone, or as the first of those that torchrun started.

    Args:
        text: the message.
        effect: whether it only tells of what happened to another process, and so is left unsaid if
            any other has told why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed import DistError

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=CONNECT_SECONDS),
        )
        if effect:
            time.sleep(ECHO_SECONDS)
            if store.add("nexus/causes", 0):
                return False
        else:
            store.add("nexus/causes", 1)
        said = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        return store.add(f"nexus/said/{said}", 1) == 1
    except (DistError, KeyError):
        return True  # said twice is better than not at all
