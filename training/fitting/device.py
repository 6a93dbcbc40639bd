"""What fitting runs on: one process or many, each on a GPU where there is one.

Several processes are started by torch's own launcher, on one machine or more:

    torchrun --nproc-per-node 4 --no-python hemascope train vgg16 --data ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class TrainingDevice:
    """The device of a process. Of `world` processes, `rank` 0 evaluates and writes."""

    torch_device: torch.device
    rank: int = 0
    world: int = 1

    def share(self, module: nn.Module) -> nn.Module:
        """Wrap `module` so that gradients are averaged over all processes."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)

    def agree(self, value: bool) -> bool:
        """Return the value that process 0 holds; every process calls this."""
        if self.world == 1:
            return value
        agreed = torch.tensor(int(value), device=self.torch_device)
        distributed.broadcast(agreed, 0)
        return bool(agreed.item())

    def put(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Move the parts of a batch to the device."""
        return tuple(part.to(self.torch_device, non_blocking=True) for part in batch)


SINGLE_CPU = TrainingDevice(torch.device("cpu"))


@contextmanager
def open_device() -> Iterator[TrainingDevice]:
    """Join the other processes, if `torchrun` started some, and take a device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    has_gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device("cuda", local) if has_gpu else torch.device("cpu")
    if world == 1:
        yield TrainingDevice(own)
        return
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield TrainingDevice(own, distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()
