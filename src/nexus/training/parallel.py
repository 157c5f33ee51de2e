"""One process or many: PyTorch's own engine, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Parallel:
    """Where this process stands among the processes of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over the ranks at each optimiser step."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False)

    def hold_gradients(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Keep ranks from exchanging gradients until the last micro-batch of a step."""
        if last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], module.no_sync())

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
def processes() -> Iterator[Parallel]:
    """Join the processes that torchrun started; one process alone needs nothing."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world == 1:
        yield Parallel(device=device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Parallel(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
