"""The stream in this process: threads cut blocks ahead of the consumer. Imports no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ecgray.sampling.plan import Plan
from ecgray.sampling.stream import Archive, Batch, cut_block, step_bytes

BLOCK_BYTES = 8 << 20
THREADS = 2
AHEAD = 3
"""Blocks being cut or waiting, the bound of the memory: AHEAD + 1 blocks."""


def stream_local(
    archive: Archive, plan: Plan, task: Any, first_step: int, last_step: int, lanes: Sequence[int]
) -> Iterator[Batch]:
    """One Batch per step; see ``ecgray.sampling.stream.open_stream``.

    Cutting releases the GIL, so two threads cut side by side and beside the consumer. An exception in a thread is
    raised here, at the step it belongs to; closing the iterator ends the threads.
    """
    rows = len(lanes) * plan.lane_batch
    steps = max(1, BLOCK_BYTES // step_bytes(archive, plan, task, lanes))
    starts = iter(range(first_step, last_step, steps))
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ecgray-stream")
    waiting: deque[Future[Batch]] = deque()

    def submit() -> None:
        first = next(starts, None)
        if first is not None:
            last = min(first + steps, last_step)
            waiting.append(threads.submit(cut_block, archive, plan, task, first, last, lanes))

    try:
        for _ in range(AHEAD):
            submit()
        while waiting:
            block = waiting.popleft().result()
            submit()
            for first in range(0, len(block), rows):
                yield block.rows(first, first + rows)
    finally:
        threads.shutdown(cancel_futures=True)
