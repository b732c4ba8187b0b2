"""Memory maps of one file of each shard, and the arrays of several shards seen as one."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgray.errors import EcgrayError
from ecgray.shards.arrays import read_header
from ecgray.shards.cache import Reader, RemoteFile, fetch_all

Ints = npt.NDArray[np.int64]

_HELD = 4096
"""Maps of files on this machine that are kept; the kernel gives a process 65,530 in all."""
_HELD_REMOTE = 1024
"""Maps of files in the node's cache: each keeps a descriptor open, and the space of its file from being freed. A block
of frames touches 256 shards where pools meet."""
_EVICTED_S = 1.0
"""How often it is looked which of them were evicted, so that their space is free."""
_SHARES = 16
"""Parts that the descriptors of a process are divided into."""
_SHARDS_AT_ONCE = 256
"""Shards that one operation reads: those at a URL must all be in the node's cache as long as it lasts."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


class Map:
    """A whole file in memory, to be read. Python's own map would keep a descriptor of it, of which there are few."""

    def __init__(self, stream: BinaryIO) -> None:
        found = os.fstat(stream.fileno())
        self.size, self.stamp = found.st_size, (found.st_size, found.st_mtime_ns)
        address = _libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.address = int(address)

    def advise(self, advice: int, first: int = 0, length: int | None = None) -> None:
        """``madvise`` for ``length`` bytes from ``first`` on, a multiple of the page size; by default for all."""
        _libc.madvise(self.address + first, self.size if length is None else length, advice)

    def __del__(self, munmap: Any = _libc.munmap) -> None:
        if hasattr(self, "address"):
            munmap(self.address, self.size)


class _Memory:
    """Elements of ``kind`` from ``address`` on, as numpy's array interface describes memory; keeps its owner alive."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: np.dtype[Any], owner: Any) -> None:
        self._owner = owner
        self.__array_interface__ = {"data": (address, True), "shape": shape, "typestr": kind.str, "version": 3}


class Held(NamedTuple):
    """The array of one shard's file and the address of its first element; ``path`` of a file on this machine, and who
    reads one in the node's cache."""

    array: npt.NDArray[Any]
    address: int
    map: Map
    path: str | None
    reader: Reader | None


class Together(NamedTuple):
    """Element i of the array of shard s, in C order, is ``values[base[s] + i]``. ``values[0]`` may always be read."""

    values: npt.NDArray[Any]
    base: Ints
    held: Sequence[Held]


@cache
def _files_for_readers() -> int:
    """How many maps with a descriptor there may be of each of a shard's four files, for a few archives in a process.

    Programs start with room for 1,024 descriptors as a rule, for the sake of ``select``, and may have more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _HELD_REMOTE * _SHARES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _HELD_REMOTE if soft == resource.RLIM_INFINITY else max(1, min(_HELD_REMOTE, soft // _SHARES))


def groups(shard: Ints) -> Iterator[tuple[Ints, Ints | slice]]:
    """The shards in ``shard``, ascending, no more at a time than may be read at once; with the rows that name them."""
    used = np.flatnonzero(np.bincount(shard)) if len(shard) else np.empty(0, np.int64)
    if len(used) <= _SHARDS_AT_ONCE:
        if len(used):
            yield used, slice(None)
        return
    for begin in range(0, len(used), _SHARDS_AT_ONCE):
        part = used[begin : begin + _SHARDS_AT_ONCE]
        yield part, np.flatnonzero((shard >= part[0]) & (shard <= part[-1]))


class Maps:
    """The file that ``file`` names of each shard, mapped when first asked for; ``shape`` is that of its array.

    Files on object storage are fetched into the node's cache, which keeps them while a caller reads them. ``learn`` is
    called with the array of each shard that this process has not mapped before; ``advice`` is for ``madvise``. Threads
    may share one, processes may not: a fork would let go of what its parent reads.
    """

    def __init__(
        self,
        file: Callable[[int], Path | RemoteFile],
        kind: npt.DTypeLike,
        shape: Callable[[int], tuple[int | None, ...]],
        learn: Callable[[int, npt.NDArray[Any]], None] = lambda shard, array: None,
        advice: int | None = None,
    ) -> None:
        self._file, self._kind, self._shape, self._learn, self._advice = file, np.dtype(kind), shape, learn, advice
        self._held: OrderedDict[int, Held] = OrderedDict()
        self._learned: set[int] = set()
        self._stamps: dict[int, tuple[int, int]] = {}  # of each file on this machine that was mapped
        self._any_remote = False
        self._look_at = 0.0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def together(self, shards: Ints) -> Iterator[Together]:
        """The arrays of some shards (one at least), as long as the context is open.

        The maps lie somewhere in this process's memory, and so does every element: seen as one array from the lowest
        map to the highest, elements of all shards are one indexing operation. Nothing between the maps is touched.
        """
        with self.opened(shards.tolist()) as held:
            address = np.array([one.address for one in held], np.int64)
            lowest, size = int(address.min()), self._kind.itemsize
            # An array without elements begins in the first page of its map all the same.
            elements = max(1, *((one.map.address + one.map.size - lowest) // size for one in held))
            base = np.zeros(int(shards[-1]) + 1, np.int64)
            base[shards] = (address - lowest) // size
            yield Together(np.asarray(_Memory(lowest, (elements,), self._kind, held)), base, held)

    @contextlib.contextmanager
    def opened(self, shards: Sequence[int]) -> Iterator[list[Held]]:
        """The maps of some shards; the caller's references keep them alive while others are opened.

        Raises EcgrayError for a file that is missing, is not such an array, has shrunk, or is another one than before.
        """
        with self._lock:
            if self._any_remote and time.monotonic() >= self._look_at:
                self._forget_evicted()
                self._look_at = time.monotonic() + _EVICTED_S
            missing = [self._file(shard) for shard in shards if shard not in self._held]
        fetch_all([file for file in missing if isinstance(file, RemoteFile)])
        held: list[Held] = []
        try:
            with self._lock:
                self._open(shards, held)
            yield held
        finally:
            with self._lock:
                for one in held:
                    if one.reader is not None:
                        one.reader.give()

    def _forget_evicted(self) -> None:
        for shard in [shard for shard, one in self._held.items() if one.reader is not None and one.reader.gone]:
            del self._held[shard]

    def _open(self, shards: Sequence[int], held: list[Held]) -> None:
        """Add the shards' maps to ``held``, each taken as it comes."""
        for shard in shards:
            one = self._held.pop(shard, None)
            while one is None or (one.reader is not None and not one.reader.take()):
                one = self._map(shard)
            self._held[shard] = one
            held.append(one)
            if one.path is not None:
                _refuse_shrunk(one.path, one.map.size)
        most = _files_for_readers() if self._any_remote else _HELD
        while len(self._held) > most:
            self._held.popitem(last=False)

    def _map(self, shard: int) -> Held:
        file = self._file(shard)
        if isinstance(file, RemoteFile):
            self._any_remote = True
            _files_for_readers()  # before the first of many is opened: it makes room for them
            stream = file.open()
            held = self._hold(shard, stream, file, path=None)._replace(reader=Reader(stream))
        else:
            try:
                with file.open("rb") as stream:
                    held = self._hold(shard, stream, file, path=str(file))
            except OSError as error:
                raise EcgrayError(
                    f"'{file}' must be there and readable, got: {error}; copy the shard set again or ingest again."
                ) from error
            if self._stamps.setdefault(shard, held.map.stamp) != held.map.stamp:
                raise EcgrayError(
                    f"'{file}' must stay as it is while the set is used, got another file; copy the shard set again "
                    "and go on with --resume."
                )
        if shard not in self._learned:
            self._learn(shard, held.array)
            self._learned.add(shard)
            # It has read all of the file, which would count as this process's memory from now on.
            held.map.advise(mmap.MADV_DONTNEED)
        return held

    def _hold(self, shard: int, stream: BinaryIO, file: Path | RemoteFile, path: str | None) -> Held:
        begin, shape = read_header(stream, file, self._kind, self._shape(shard))
        mapped = Map(stream)
        if self._advice is not None:
            mapped.advise(self._advice)
        address = mapped.address + begin
        return Held(np.asarray(_Memory(address, shape, self._kind, mapped)), address, mapped, path, None)


def _refuse_shrunk(path: str, size: int) -> None:
    """Beyond the end of a file that has shrunk, the kernel ends the process without a word. One that was removed can be
    read on."""
    try:
        now = os.stat(path).st_size
    except FileNotFoundError:
        return
    if now < size:
        raise EcgrayError(
            f"'{path}' must stay as it is while it is read, got {now} of its {size} bytes left; copy the shard set "
            "again and go on with --resume."
        )
