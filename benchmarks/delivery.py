"""How fast batches arrive: the consumer of every stream, the same in every environment. Imports numpy alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

PAGE_WORDS = 2048
Batches = Iterator[tuple[Any, Any]]


def measure(batches: Batches, copy: bool = False) -> dict[str, float]:
    """Frames per second over the whole run and after the first batch, and the seconds to that batch.

    batches: pairs of int16 signal (n, leads, samples) and target (n,). The consumer reads one word per page of each
    batch, or with ``copy`` takes a copy of it into memory of its own that is used again and again.
    """
    begin = time.perf_counter()
    frames, touched, first, first_frames, mine = 0, 0, 0.0, 0, None
    for signal, target in batches:
        if copy:
            mine = np.empty_like(signal) if mine is None or mine.shape != signal.shape else mine
            np.copyto(mine, signal)
            touched += int(mine[0, 0, 0])
        else:
            touched += int(signal.reshape(-1)[::PAGE_WORDS].sum()) + int(target[0])
        frames += len(target)
        if not first:
            first = time.perf_counter() - begin
            first_frames = frames
    whole = time.perf_counter() - begin
    after = max(frames - first_frames, 1) / max(whole - first, 1e-9)
    return {"whole": frames / whole, "sustained": after, "first_s": first}
