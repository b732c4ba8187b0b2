"""Frames out of memory-mapped signals: any frames, of any shards, in one copy."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ecgray.control_groups import memory_limit
from ecgray.shards.cache import RemoteFile
from ecgray.shards.maps import Map, Maps, groups

_SHARE_OF_MEMORY = 0.5
"""What signals may take of it and still be counted on to stay there once they have been read."""


class Signals:
    """The signal.npy of each shard.

    ``samples`` has one entry per shard; ``order`` (shards, leads) says where in its shard each lead stands.

    Signals that fit into memory are soon in it whole, since the kernel reads far around every page asked for. Of larger
    ones most of that would be thrown away before its use, and a frame of 4 KiB would cost up to megabytes: there, pages
    are read alone, those of all frames of a call at once.
    """

    def __init__(
        self,
        file: Callable[[int], Path | RemoteFile],
        samples: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
    ) -> None:
        self._samples, self._order, self._leads = samples, order, order.shape[1]
        leads = self._leads
        self._larger_than_memory = 2 * leads * int(samples.sum()) > _SHARE_OF_MEMORY * memory_limit()
        advice = mmap.MADV_RANDOM if self._larger_than_memory else None
        self._maps = Maps(file, np.int16, lambda shard: (leads, int(samples[shard])), advice=advice)

    def cut(
        self,
        shard: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        span: int,
        out: npt.NDArray[np.int16] | None = None,
    ) -> npt.NDArray[np.int16]:
        """(n, leads, span) samples from ``start`` on in the shards ``shard``, both (n,). Bounds are the caller's."""
        frames = out
        for used, rows in groups(shard):
            if frames is None and isinstance(rows, slice):
                return self._copy(used, shard, start, span)
            if frames is None:
                frames = np.empty((len(shard), self._leads, span), np.int16)
            frames[rows] = self._copy(used, shard[rows], start[rows], span)
        return np.empty((0, self._leads, span), np.int16) if frames is None else frames

    def _copy(
        self,
        used: npt.NDArray[np.int64],
        shard: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        span: int,
    ) -> npt.NDArray[np.int16]:
        # With a window at each word the frames of all shards are one indexing operation. Against grouping by shard this
        # doubles the frames per second.
        with self._maps.together(used) as (words, base, held):
            windows = as_strided(words, (len(words) - span + 1, span), (2, 2), writeable=False)
            first = (base[shard] + start)[:, None]
            if self._leads > 1:
                first = first + self._samples[shard][:, None] * self._order[shard]
            if self._larger_than_memory:
                _announce([one.map for one in held], words.ctypes.data + 2 * first.ravel(), 2 * span)
            return windows[first]


def _announce(maps: Sequence[Map], address: npt.NDArray[np.int64], length: int) -> None:
    """Have the kernel start to read the ``length`` bytes from each address on, and not wait for them."""
    order = np.argsort([one.address for one in maps])
    starts = np.array([maps[i].address for i in order])
    place = np.searchsorted(starts, address, side="right") - 1
    begin = (address - starts[place]) // mmap.PAGESIZE * mmap.PAGESIZE
    end = address - starts[place] + length
    for number, first, last in zip(order[place].tolist(), begin.tolist(), end.tolist(), strict=True):
        maps[number].advise(mmap.MADV_WILLNEED, first, last - first)
