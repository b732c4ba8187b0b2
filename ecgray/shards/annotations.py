"""Beats and rhythms of all shards, answered for a block of windows at once.

What a window holds is found where it lies: a coarse table leads to the right stretch of a shard's beats, a short
search to the place in it, and the few beats of the window are counted one by one. The arrays stay memory-mapped and
the tables are small, so that a shard of which 100 frames are asked costs no more than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards.cache import RemoteFile
from ecgray.shards.maps import Ints, Maps, Together, groups

UNDEFINED = RHYTHMS.index("undefined")

_FINEST_STRETCH = 9
"""log2 of the samples in the shortest stretch of a table: at 250 Hz it holds two or three beats."""
_MOST_STRETCHES = 1 << 24
"""In the tables of an archive; from there on stretches are longer."""
_WALKED = 8
"""Values in a stretch up to which one after another is looked at: two thirds of what halving costs."""


class Windows(NamedTuple):
    """Windows [start, end) in samples of their shard that lie inside a record, whose beats are [first, last) of the
    shard's; all are (n,)."""

    shard: Ints
    start: Ints
    end: Ints
    first: Ints
    last: Ints

    def rows(self, chosen: Ints | slice) -> Windows:
        return Windows(*(column[chosen] for column in self))


class Ascending:
    """How many of a shard's ascending samples lie before another one.

    ``samples`` (shards,): lengths; ``step``: elements from one of the ascending samples to the next in their array.
    A shard is cut into stretches of 2**shift samples, and of each stretch it is known how many values lie before it.
    """

    def __init__(self, samples: Ints, step: int = 1) -> None:
        self._step, self._shift = step, _FINEST_STRETCH
        while (int(samples.sum()) >> self._shift) > _MOST_STRETCHES:
            self._shift += 1
        # One for each sample that may be asked for, up to the length + 1, and the count before what comes behind it.
        self._stretches = ((samples + 1) >> self._shift) + 2
        self._begin = np.cumsum(self._stretches) - self._stretches
        # Zeros take no memory before they are written over.
        self._before = np.zeros(int(self._stretches.sum()), np.int32)
        self.count = np.zeros(len(samples), np.int64)

    def learn(self, shard: int, values: Ints) -> None:
        """Build the table of a shard, which must be done before it is asked for."""
        begin, stretches = int(self._begin[shard]), int(self._stretches[shard])
        in_each = np.bincount(values >> self._shift, minlength=stretches)
        np.cumsum(in_each[:-1], out=self._before[begin + 1 : begin + stretches])
        self.count[shard] = len(values)

    def before(self, held: Together, shard: Ints, sample: Ints) -> Ints:
        """(n,) how many of the values in the shards ``shard`` are less than ``sample``, both (n,), where a sample lies
        in [0, length + 1]."""
        stretch = self._begin.take(shard) + (sample >> self._shift)
        low, high = (self._before.take(place).astype(np.int64) for place in (stretch, stretch + 1))
        base, most = held.base.take(shard), int((high - low).max(initial=0))

        def less(index: Ints) -> npt.NDArray[np.bool_]:
            """Whether there is a value of that index before ``high``, and it is less."""
            searching = index < high
            place = index * self._step
            place += base
            place *= searching
            found: npt.NDArray[np.bool_] = held.values.take(place) < sample
            found &= searching
            return found

        if most <= _WALKED:
            for _ in range(most):
                low += less(low)
            return low
        for _ in range(most.bit_length()):
            middle = (low + high) >> 1
            found = less(middle)
            low, high = np.where(found, middle + 1, low), np.where(found, high, middle)
        return low


class _Tables:
    """The tables of each shard, built and its arrays checked when they are seen for the first time."""

    def __init__(self, folder: Callable[[int], str], samples: Ints, used: Ints) -> None:
        self._folder, self._samples, self._used = folder, samples, used
        self.beats, self.zones = Ascending(samples), Ascending(samples, step=3)

    def see_beats(self, shard: int, beats: Ints) -> None:
        ascend = not len(beats) or (
            beats[0] >= 0 and beats[-1] < self._samples[shard] and bool((beats[1:] >= beats[:-1]).all())
        )
        self._require(ascend and len(beats) >= self._used[shard, 0], shard, "beats.npy")
        self.beats.learn(shard, beats)

    def see_classes(self, shard: int, classes: npt.NDArray[np.uint8]) -> None:
        known = not len(classes) or classes.max() < len(BEATS)
        self._require(known, shard, "beat_class.npy")

    def see_zones(self, shard: int, zones: Ints) -> None:
        start, end, rhythm = zones.T
        ascend = not len(zones) or (
            start[0] >= 0
            and end[-1] <= self._samples[shard]
            and bool((start < end).all() and (start[1:] >= end[:-1]).all())
        )
        known = not len(zones) or (rhythm.min() >= 0 and rhythm.max() < len(RHYTHMS))
        self._require(ascend and known and len(zones) >= self._used[shard, 1], shard, "rhythms.npy")
        self.zones.learn(shard, start)

    def _require(self, holds: bool, shard: int, name: str) -> None:
        if not holds:
            raise EcgrayError(
                f"{name} in '{self._folder(shard)}' must ascend inside its shard and its vocabulary, and hold what the "
                "records list, got other values; copy the shard set again or ingest again."
            )


class Annotations:
    """``file(shard, name)`` finds a file, ``folder(shard)`` names a shard in messages; ``samples`` (shards,) are their
    lengths, ``used`` (shards, 2) the beats and zones that records have in them.

    Raises EcgrayError for arrays that no such shard can have.
    """

    def __init__(
        self,
        file: Callable[[int, str], Path | RemoteFile],
        folder: Callable[[int], str],
        samples: Ints,
        used: Ints,
    ) -> None:
        # Nothing that the maps call leads back to this object: they end with it.
        def named(name: str) -> Callable[[int], Path | RemoteFile]:
            return lambda shard: file(shard, name)

        tables = self._tables = _Tables(folder, samples, used)
        self._beats = Maps(named("beats.npy"), np.int64, lambda shard: (None,), tables.see_beats)
        # As long as the beats, which are always opened first.
        self._classes = Maps(
            named("beat_class.npy"), np.uint8, lambda shard: (int(tables.beats.count[shard]),), tables.see_classes
        )
        self._zones = Maps(named("rhythms.npy"), np.int64, lambda shard: (None, 3), tables.see_zones)

    def beats(self, shard: int, first: int, last: int) -> tuple[Ints, npt.NDArray[np.uint8]]:
        """Samples and classes of the shard's beats [first, last)."""
        with self._beats.opened([shard]) as beats, self._classes.opened([shard]) as classes:
            return np.array(beats[0].array[first:last]), np.array(classes[0].array[first:last])

    def zones(self, shard: int, first: int, last: int) -> Ints:
        """(m, 3): start, end and class of the shard's rhythms [first, last)."""
        with self._zones.opened([shard]) as zones:
            return np.array(zones[0].array[first:last])

    def beat_counts(self, windows: Windows, skip_first: bool) -> Ints:
        """(n, len(BEATS)) beats per class; ``skip_first`` leaves out each window's first."""
        counts = np.empty((len(windows.shard), len(BEATS)), np.int64)
        for used, rows in groups(windows.shard):
            some = windows.rows(rows)
            with self._beats.together(used) as beats, self._classes.together(used) as classes:
                low, high = self._beat_range(beats, some)
                if skip_first:
                    low = np.minimum(low + 1, high)
                row, index = _spread(low, high)
                found = classes.values[classes.base[some.shard][row] + index]
                counts[rows] = _tally(row, found, None, len(low), len(BEATS))
        return counts

    def beat_extent(self, windows: Windows) -> Ints:
        """(n, 4): count, first, second and last beat, -1 where there is none."""
        extent = np.empty((len(windows.shard), 4), np.int64)
        for used, rows in groups(windows.shard):
            some = windows.rows(rows)
            with self._beats.together(used) as beats:
                low, high = self._beat_range(beats, some)
                count, base = high - low, beats.base[some.shard]
                there = np.stack([count >= 1, count >= 2, count >= 1])
                found = beats.values.take(np.where(there, base + np.stack([low, low + 1, high - 1]), 0))
                extent[rows] = np.column_stack([count, *np.where(there, found, -1)])
        return extent

    def rhythm_durations(self, windows: Windows) -> Ints:
        """(n, len(RHYTHMS)) samples in each rhythm; time in no zone counts in none."""
        durations = np.empty((len(windows.shard), len(RHYTHMS)), np.int64)
        for used, rows in groups(windows.shard):
            some = windows.rows(rows)
            with self._zones.together(used) as zones:
                row, (start, end, rhythm) = self._zones_of(zones, some.shard, some.start, some.end)
                inside = np.minimum(end, some.end[row]) - np.maximum(start, some.start[row])
                durations[rows] = _tally(row, rhythm, np.maximum(inside, 0), len(some.shard), len(RHYTHMS))
        return durations

    def rhythm_durations_by_beat(self, windows: Windows) -> Ints:
        """(n, len(RHYTHMS)). A piece of the window ends at each beat after its start and carries that beat's rhythm;
        the piece that the window's end cuts carries the rhythm of the beat that ends it, or of the record's last beat
        where none does. A beat outside zones is undefined, and so is a window after the record's last beat."""
        durations = np.empty((len(windows.shard), len(RHYTHMS)), np.int64)
        for used, rows in groups(windows.shard):
            some = windows.rows(rows)
            with self._beats.together(used) as beats, self._zones.together(used) as zones:
                durations[rows] = self._carried(beats, zones, some)
        return durations

    def _carried(self, beats: Together, zones: Together, windows: Windows) -> Ints:
        shard, start, end, first, last = windows
        base, n = beats.base[shard], len(shard)
        # Beats a to b end the pieces: the first after the start to the first at the end or beyond, if there is any.
        after, beyond = self._search(self._tables.beats, beats, shard, start + 1, end)
        opening = np.clip(after, first, last)
        ahead = np.flatnonzero(opening < last)
        a = opening[ahead]
        b = np.maximum(np.clip(beyond, first, np.maximum(last - 1, first))[ahead], a)
        at_a, at_b = beats.values[base[ahead] + a], beats.values[base[ahead] + b]
        row, (begin, finish, rhythm) = self._zones_of(zones, shard[ahead], at_a, at_b + 1)
        # Those of the beats a to b that lie in the zone, [low, high): mostly all, without a search.
        low, high, starts_in, ends_in = a[row], b[row] + 1, begin > at_a[row], finish <= at_b[row]
        for inside, edge, bound in ((starts_in, begin, low), (ends_in, finish, high)):
            cut = np.flatnonzero(inside)
            bound[cut] = self._tables.beats.before(beats, shard[ahead][row[cut]], edge[cut])
        here = np.flatnonzero(low < high)
        row, low, high, rhythm = row[here], low[here], high[here], rhythm[here]
        of = ahead[row]
        left = np.where(low == a[row], start[of], beats.values[base[of] + np.maximum(low - 1, 0)])
        right = np.where(high == b[row] + 1, end[of], beats.values[base[of] + high - 1])
        durations = _tally(of, rhythm, right - left, n, len(RHYTHMS))
        # What no zone's beats carry: beats outside zones, and windows after the record's last beat.
        durations[:, UNDEFINED] += end - start - durations.sum(axis=1)
        return durations

    def _beat_range(self, beats: Together, windows: Windows) -> tuple[Ints, Ints]:
        """Indices [low, high) in their shard of the beats in each window."""
        low, high = self._search(self._tables.beats, beats, windows.shard, windows.start, windows.end)
        low = np.clip(low, windows.first, windows.last)
        return low, np.clip(high, low, windows.last)

    def _zones_of(self, zones: Together, shard: Ints, start: Ints, end: Ints) -> tuple[Ints, tuple[Ints, Ints, Ints]]:
        """The zones that may reach into windows [start, end): rows of the windows, and start, end, class of each."""
        begun, up_to = self._search(self._tables.zones, zones, shard, start + 1, end)
        row, index = _spread(np.maximum(begun - 1, 0), up_to)
        at = zones.base[shard][row] + 3 * index
        return row, (zones.values[at], zones.values[at + 1], zones.values[at + 2])

    @staticmethod
    def _search(places: Ascending, held: Together, shard: Ints, one: Ints, other: Ints) -> tuple[Ints, Ints]:
        """``places.before`` of two samples in each shard, in one search."""
        found = places.before(held, np.concatenate([shard, shard]), np.concatenate([one, other]))
        return found[: len(shard)], found[len(shard) :]


def _spread(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """(row, index) of every index in the ranges [low, high), row after row."""
    count = np.maximum(high - low, 0)
    row = np.repeat(np.arange(len(low)), count)
    return row, np.arange(len(row)) + np.repeat(low - np.cumsum(count) + count, count)


def _tally(row: Ints, kind: npt.NDArray[Any], weight: Ints | None, rows: int, kinds: int) -> Ints:
    """(rows, kinds) how many there are, or sums of the weights, exact up to 2**53."""
    sums = np.bincount(row * kinds + kind, weights=weight, minlength=rows * kinds)
    return sums.astype(np.int64, copy=False).reshape(rows, kinds)
