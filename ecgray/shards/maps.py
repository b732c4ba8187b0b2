"""Memory maps of one file of each shard, and the arrays of several shards seen as one."""

from __future__ import annotations

import contextlib
import mmap
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ecgray.errors import EcgrayError
from ecgray.shards.arrays import open_array, read_array
from ecgray.shards.cache import Reader, RemoteFile, fetch_all

Ints = npt.NDArray[np.int64]

_MOST_FILES = 65_536
"""File descriptors that a process is given where it may have so many."""
_FILES_PER_MAP = 8
"""A shard has four files that are mapped; as many descriptors again are left to everything else."""
_AT_ONCE = 256
"""Shards that one operation reads: those at a URL must all be in the node's cache as long as it lasts."""


class Map(NamedTuple):
    """``address`` is that of the array's first element, ``size`` the file's when it was mapped."""

    array: npt.NDArray[Any]
    address: int
    file: mmap.mmap
    size: int
    reader: Reader | None
    """Of a file in the node's cache."""


class Together(NamedTuple):
    """Element i of the array of shard s, in C order, is ``values[place[s] + i]``."""

    values: npt.NDArray[Any]
    place: Ints
    maps: Sequence[Map]


class _Memory:
    """All elements of ``kind`` from ``address`` on, as numpy's array interface describes memory."""

    def __init__(self, address: int, elements: int, kind: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (elements,),
            "typestr": kind.str,
            "version": 3,
        }


@cache
def most_open() -> int:
    """Maps of one kind that a process holds open; each has a file descriptor.

    Programs start with room for 1,024 descriptors as a rule, for the sake of ``select``, and may have many more: a
    stream over thousands of shards that could hold a few would open files all the time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted // _FILES_PER_MAP)


def groups(shard: Ints) -> Iterator[tuple[Ints, Ints | slice]]:
    """The shards in ``shard``, ascending, no more at a time than may be held; with the rows that name them."""
    used = np.flatnonzero(np.bincount(shard)) if len(shard) else np.empty(0, np.int64)
    most = min(_AT_ONCE, most_open())
    if len(used) <= most:
        if len(used):
            yield used, slice(None)
        return
    for first in range(0, len(used), most):
        part = used[first : first + most]
        yield part, np.flatnonzero((shard >= part[0]) & (shard <= part[-1]))


class Maps:
    """The file that ``file`` names of each shard, mapped when first asked for; ``shape`` is that of its array.

    Files on object storage are fetched into the node's cache, which keeps them while a caller reads them. ``first`` is
    called with the array of each shard that this process has not mapped before; ``advice`` is for ``madvise``.
    """

    def __init__(
        self,
        file: Callable[[int], Path | RemoteFile],
        kind: npt.DTypeLike,
        shape: Callable[[int], tuple[int | None, ...]],
        first: Callable[[int, npt.NDArray[Any]], None] = lambda shard, array: None,
        advice: int | None = None,
    ) -> None:
        self._file, self._kind, self._shape, self._first, self._advice = file, np.dtype(kind), shape, first, advice
        self._maps: OrderedDict[int, Map] = OrderedDict()
        self._known: set[int] = set()
        self._cached = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def together(self, shards: Ints) -> Iterator[Together]:
        """The arrays of some shards (one at least), as long as the context is open.

        The maps lie somewhere in this process's memory, and so does every element: seen as one array from the lowest
        map to the highest, elements of all shards are one indexing operation. Nothing between the maps is touched.
        """
        with self.opened(shards.tolist()) as maps:
            address = np.array([one.address for one in maps], np.int64)
            lowest, size = int(address.min()), self._kind.itemsize
            end = max(one.address + one.array.nbytes for one in maps)
            place = np.zeros(int(shards[-1]) + 1, np.int64)
            place[shards] = (address - lowest) // size
            yield Together(np.asarray(_Memory(lowest, max(1, (end - lowest) // size), self._kind)), place, maps)

    @contextlib.contextmanager
    def opened(self, shards: Sequence[int]) -> Iterator[list[Map]]:
        """The maps of some shards; the caller's references keep them alive while others are opened.

        Raises EcgrayError for a file that is missing, is not such an array, or has shrunk.
        """
        missing = (self._file(shard) for shard in shards if shard not in self._maps)
        fetch_all([file for file in missing if isinstance(file, RemoteFile)])
        maps: list[Map] = []
        try:
            with self._lock:
                self._open(shards, maps)
            yield maps
        finally:
            with self._lock:
                for one in maps:
                    if one.reader is not None:
                        one.reader.give()

    def _open(self, shards: Sequence[int], maps: list[Map]) -> None:
        """Add the shards' maps to ``maps``, each taken as it comes."""
        if self._cached:
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
                    f"'{self._file(shard)}' must stay as it is while it is read, got {one.file.size()} of its "
                    f"{one.size} bytes left; copy the shard set again and go on with --resume."
                )
        while len(self._maps) > most_open():
            self._maps.popitem(last=False)

    def _map(self, shard: int) -> Map:
        file, shape, reader = self._file(shard), self._shape(shard), None
        if isinstance(file, RemoteFile):
            stream = file.open()
            array = read_array(stream, file, self._kind, shape, mapped=True)
            reader, self._cached = Reader(stream), True
        else:
            array = open_array(file, self._kind, shape, mapped=True)
        if shard not in self._known:
            self._first(shard, array)
            self._known.add(shard)
        # a memory map's base is the map itself, which keeps the file open
        opened = cast(mmap.mmap, array._mmap)  # type: ignore[attr-defined]
        if self._advice is not None:
            opened.madvise(self._advice)
        return Map(array, array.ctypes.data, opened, opened.size(), reader)
