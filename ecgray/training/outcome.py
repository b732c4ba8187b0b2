"""What a step gives back, and how fast steps follow each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ecgray.sampling.stream import Batch


@dataclass(frozen=True)
class Step:
    """One step's outcome on its way to the host.

    ``sums`` (5,) over all ranks: loss, correct frames, norm of the gradient (of use for whether it is finite), counted
    frames, how many were asked to stop; ``losses`` (n,) of this rank's frames.
    """

    number: int
    batch: Batch
    losses: Tensor
    sums: Tensor
    ready: torch.cuda.Event | None

    @staticmethod
    def read_later(number: int, batch: Batch, losses: Tensor, sums: Tensor) -> Step:
        """Start the copy to the host without waiting for the device."""
        if not sums.is_cuda:
            return Step(number, batch, losses, sums, None)
        host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True).copy_(sums, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Step(number, batch, losses, host, ready)

    def read(self) -> list[float]:
        """The sums, once they are there."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.sums.tolist()


class Pace:
    """Frames per second, and the share of the time that is spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.frames, self._waited_s, self._since = 0, 0.0, time.monotonic()

    def waiting_for(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """The stream, timed."""
        while True:
            began = time.monotonic()
            batch = next(stream, None)
            self._waited_s += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def measure(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._since, 1e-9)
        return {"frames_per_s": self.frames / elapsed, "waiting_for_data": self._waited_s / elapsed}
