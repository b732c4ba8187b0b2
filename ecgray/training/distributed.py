"""Who takes part in a run: trivial when alone, a torch process group otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Distributed:
    """This process among ``size``; with more than one, torch.distributed is initialised already."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    @property
    def memory_bytes(self) -> int:
        """GPU memory that this process holds, 0 on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    def sum(self, values: Tensor) -> Tensor:
        """``values`` summed over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, number: float) -> Tensor:
        """A number that each host knows, summed over all ranks: float64 (), on the host where this rank is alone."""
        if self.size == 1:
            return torch.tensor(number, dtype=torch.float64)
        return self.sum(torch.full((), number, dtype=torch.float64, device=self.device))

    def from_first(self, values: Tensor) -> Tensor:
        """The first rank's ``values``, in place."""
        if self.size > 1:
            dist.broadcast(values, src=0)
        return values

    def wait(self) -> None:
        """Until every rank is here."""
        self.sum(torch.zeros(1, device=self.device)).item()

    def wrap(self, network: nn.Module) -> nn.Module:
        """``network`` with its gradients averaged over ranks (and the first rank's weights everywhere)."""
        return DistributedDataParallel(network) if self.size > 1 else network


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
