"""Frames out of memory-mapped signals: any frames, of any shards, in one copy."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ecgray.errors import EcgrayError
from ecgray.shards.arrays import open_array, read_array
from ecgray.shards.cache import Reader, RemoteFile, fetch_all
from ecgray.shards.memory import memory_limit

_OPEN = 256
"""Maps held open per process; each holds a file descriptor, of which a process has 1,024 as a rule."""

_SHARE_OF_MEMORY = 0.5
"""What signals may take of it and still be counted on to stay there once they have been read."""


class _Map(NamedTuple):
    array: npt.NDArray[np.int16]
    address: int
    file: mmap.mmap
    size: int
    reader: Reader | None
    """Of a file in the node's cache."""


class _Memory:
    """All int16 words from ``address`` on, as numpy's array interface describes memory."""

    def __init__(self, address: int, words: int) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (words,), "typestr": "<i2", "version": 3}


class Signals:
    """The signal.npy of each shard, mapped when first asked for.

    ``files`` and ``samples`` have one entry per shard; ``order`` (shards, leads) says where in its shard each lead
    stands. Files on object storage are fetched into the node's cache, which keeps them while a call reads them.

    Signals that fit into memory are soon in it whole, since the kernel reads far around every page asked for. Of larger
    ones most of that would be thrown away before its use, and a frame of 4 KiB would cost up to megabytes: there, pages
    are read alone, those of all frames of a call at once.
    """

    def __init__(
        self, files: Sequence[Path | RemoteFile], samples: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
    ) -> None:
        self._files, self._samples, self._order = files, samples, order
        self._leads = order.shape[1]
        self._maps: OrderedDict[int, _Map] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _larger_than_memory(self) -> bool:
        return 2 * self._leads * int(self._samples.sum()) > _SHARE_OF_MEMORY * memory_limit()

    def cut(
        self,
        shard: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        span: int,
        out: npt.NDArray[np.int16] | None = None,
    ) -> npt.NDArray[np.int16]:
        """(n, leads, span) samples from ``start`` on in the shards ``shard``, both (n,). Bounds are the caller's."""
        used = np.flatnonzero(np.bincount(shard, minlength=1))
        if len(used) <= _OPEN:
            frames = self._gather(used, shard, start, span)
            if out is None:
                return frames
            out[...] = frames
            return out
        out = np.empty((len(shard), self._leads, span), np.int16) if out is None else out
        for first in range(0, len(used), _OPEN):
            part = used[first : first + _OPEN]
            chosen = np.flatnonzero((shard >= part[0]) & (shard <= part[-1]))
            out[chosen] = self._gather(part, shard[chosen], start[chosen], span)
        return out

    def _gather(
        self, used: npt.NDArray[np.int64], shard: npt.NDArray[np.int64], start: npt.NDArray[np.int64], span: int
    ) -> npt.NDArray[np.int16]:
        # The maps lie somewhere in this process's memory, and so does every frame: seen as one array of words from the
        # lowest map to the highest, with a window at each word, the frames of all shards are one indexing operation.
        # It never touches a word between the maps. Against grouping by shard this doubles the frames per second.
        if not len(used):
            return np.empty((0, self._leads, span), np.int16)
        with self._opened(used.tolist()) as maps:
            return self._copy(maps, used, shard, start, span)

    def _copy(
        self,
        maps: Sequence[_Map],
        used: npt.NDArray[np.int64],
        shard: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        span: int,
    ) -> npt.NDArray[np.int16]:
        address = np.array([one.address for one in maps], np.int64)
        lowest = int(address.min())
        words = int((address + 2 * self._leads * self._samples[used]).max() - lowest) // 2
        windows = as_strided(np.asarray(_Memory(lowest, words)), (words - span + 1, span), (2, 2), writeable=False)
        place = np.zeros(int(used[-1]) + 1, np.int64)
        place[used] = (address - lowest) // 2
        first = (place[shard] + start)[:, None]
        if self._leads > 1:
            first = first + self._samples[shard][:, None] * self._order[shard]
        if self._larger_than_memory:
            _announce(maps, lowest + 2 * first.ravel(), 2 * span)
        return windows[first]

    @contextlib.contextmanager
    def _opened(self, shards: Sequence[int]) -> Iterator[list[_Map]]:
        """The maps of some shards; the caller's references keep them alive while others are opened."""
        files = (self._files[shard] for shard in shards if shard not in self._maps)
        fetch_all([file for file in files if isinstance(file, RemoteFile)])
        maps: list[_Map] = []
        try:
            with self._lock:
                self._open(shards, maps)
            yield maps
        finally:
            with self._lock:
                for one in maps:
                    if one.reader is not None:
                        one.reader.give()

    def _open(self, shards: Sequence[int], maps: list[_Map]) -> None:
        """Add the shards' maps to ``maps``, each taken as it comes."""
        for shard in [shard for shard, one in self._maps.items() if one.reader is not None and one.reader.gone]:
            del self._maps[shard]
        for shard in shards:
            one = self._maps.pop(shard, None)
            while one is None or (one.reader is not None and not one.reader.take()):
                one = self._map(shard)
            self._maps[shard] = one
            maps.append(one)
            # Beyond the end of a file that has shrunk, the kernel ends the process without a word.
            if one.file.size() < one.size:
                raise EcgrayError(
                    f"'{self._files[shard]}' must stay as it is while it is read, got {one.file.size()} of its "
                    f"{one.size} bytes left; copy the shard set again and go on with --resume."
                )
        while len(self._maps) > _OPEN:
            self._maps.popitem(last=False)

    def _map(self, shard: int) -> _Map:
        file, shape, reader = self._files[shard], (self._leads, int(self._samples[shard])), None
        if isinstance(file, RemoteFile):
            stream = file.open()
            array = read_array(stream, file, np.dtype("<i2"), shape, mapped=True)
            reader = Reader(stream)
        else:
            array = open_array(file, np.dtype("<i2"), shape, mapped=True)
        # a memory map's base is the map itself, which keeps the file open
        opened = cast(mmap.mmap, array._mmap)  # type: ignore[attr-defined]
        if self._larger_than_memory:
            opened.madvise(mmap.MADV_RANDOM)
        return _Map(array, array.ctypes.data, opened, opened.size(), reader)


def _announce(maps: Sequence[_Map], address: npt.NDArray[np.int64], length: int) -> None:
    """Have the kernel start to read the ``length`` bytes from each address on, and not wait for them."""
    order = np.argsort([one.address for one in maps])
    starts = np.array([maps[i].address for i in order])
    chosen = order[np.searchsorted(starts, address, side="right") - 1]
    # A map begins with the page that holds the array's first byte.
    base = np.array([one.address // mmap.PAGESIZE * mmap.PAGESIZE for one in maps])[chosen]
    begin = (address - base) // mmap.PAGESIZE * mmap.PAGESIZE
    end = address - base + length
    for number, first, last in zip(chosen.tolist(), begin.tolist(), end.tolist(), strict=True):
        maps[number].file.madvise(mmap.MADV_WILLNEED, first, last - first)
