"""One process or many: PyTorch's own engine, started by torchrun."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from nexus.errors import Lost

TIMEOUT_SECONDS = 600.0
"""How long a process waits for another one that does not answer before it gives the run up."""

_BEATS_A_TIMEOUT = 5
_LOOK_SECONDS = 0.2

_BROKEN_OFF = re.compile(
    r"/gloo/|NCCL|Connection (closed|reset) by peer|Broken pipe|[Tt]imed out|Socket Timeout"
)
"""What PyTorch's engines say, as a plain RuntimeError, when another process does not answer."""


@dataclass(frozen=True)
class Parallel:
    """Where this process stands among the processes of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    timeout_seconds: float = TIMEOUT_SECONDS
    store: Store | None = None
    """Small facts that all processes see, also while none of them is in a collective operation."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over the ranks at each optimiser step."""
        if self.world == 1 or isinstance(module, FSDPModule):
            return module
        return DistributedDataParallel(module, forward_sync_buffers=False)

    def hold_gradients(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Keep ranks from exchanging gradients until the last micro-batch of a step.

        Sharded gradients are exchanged at every one: to hold them would take the memory of the
        whole model, which sharding is to save.
        """
        if last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], module.no_sync())

    def clip(self, module: nn.Module, limit: float) -> Tensor:
        """Scale the gradient down to the norm `limit`; returns the norm it had, over all shards."""
        norm = nn.utils.clip_grad_norm_(module.parameters(), limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks, on every rank."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised on any rank, so that all act alike."""
        if self.world == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Work for the first process only: inside, it finds True and the others find False.

        They wait for it at the end, however long it takes, as long as it lives.

        Raises:
            Lost: if the first process has given no sign of life for `timeout_seconds`.
        """
        if self.store is None:
            yield self.is_main
        elif self.is_main:
            self.wait()
            with _beating(self.store, self.timeout_seconds / _BEATS_A_TIMEOUT):
                yield True
            self.wait()
        else:
            ended = self.store.add("ended", 0)
            self.wait()  # only now may the first one begin, and so end
            yield False
            _follow(self.store, ended, self.timeout_seconds)
            self.wait()


@contextmanager
def processes(timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Parallel]:
    """Join the processes that torchrun started; one process alone needs nothing.

    Raises:
        Lost: if another process ends, or does not answer for `timeout_seconds`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        yield Parallel(device=device, timeout_seconds=timeout_seconds)
        return
    limit = timedelta(seconds=timeout_seconds)
    try:
        store, rank, world = next(rendezvous("env://", timeout=limit))
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=limit,
            device_id=device if cuda else None,
        )
        try:
            yield Parallel(rank, world, device, timeout_seconds, PrefixStore("nexus", store))
        finally:
            dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise Lost(
            "another process of the run ended, or has not answered for "
            f"{timeout_seconds:g} seconds: this one ends, too"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or bool(_BROKEN_OFF.search(str(error)))


@contextmanager
def _beating(store: Store, every_seconds: float) -> Iterator[None]:
    """Give signs of life from a thread, which stops when the process is frozen or dead."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_seconds):
            store.add("beat", 1)

    thread = threading.Thread(target=beat, name="beating", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        store.add("failed", 1)
        raise
    finally:
        ended.set()
        thread.join()
        store.add("ended", 1)


def _follow(store: Store, ended: int, timeout_seconds: float) -> None:
    beat, heard = store.add("beat", 0), time.monotonic()
    while store.add("ended", 0) == ended:
        if (latest := store.add("beat", 0)) != beat:
            beat, heard = latest, time.monotonic()
        if time.monotonic() - heard > timeout_seconds:
            raise Lost(
                f"the first process of the run has given no sign of life for {timeout_seconds:g} "
                "seconds: this one ends, too"
            )
        time.sleep(_LOOK_SECONDS)
    if store.add("failed", 0):
        raise Lost("the first process of the run could not go on: this one ends, too")
