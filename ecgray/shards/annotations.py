"""Beats and rhythms of one shard, indexed once so that a block of windows is answered without a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.errors import EcgrayError
from ecgray.shards.arrays import open_array
from ecgray.shards.cache import RemoteFile

Ints = npt.NDArray[np.int64]

UNDEFINED = RHYTHMS.index("undefined")


_MOST_IN_A_STRETCH = 16
"""Values in one stretch up to which walking beats a binary search."""


class Places:
    """Ascending samples in [0, ``samples``], and how many of them lie before any other.

    The samples are cut into stretches of about one value each. The count up to a stretch is looked up, the values in it
    are walked through: about a tenth of what a binary search for random samples costs, which mispredicts every turn.
    """

    def __init__(self, values: Ints, samples: int) -> None:
        self._values = np.append(values, np.iinfo(np.int64).max)
        self._shift = max((samples // (len(values) + 1)).bit_length() - 1, 0)
        stretches = (samples + 1 >> self._shift) + 1
        held = np.bincount(values >> self._shift, minlength=stretches)
        self._first = np.zeros(stretches + 1, np.int64)
        np.cumsum(held, out=self._first[1:])
        self._most = int(held.max())

    def before(self, sample: Ints) -> Ints:
        """(n,) how many values are less than each sample, which lies in [0, samples + 1]."""
        if self._most > _MOST_IN_A_STRETCH:
            return np.searchsorted(self._values[:-1], sample)
        index = self._first[sample >> self._shift]
        for _ in range(self._most):
            index += self._values[index] < sample
        return index


class ShardAnnotations:
    """Annotation arrays of one shard, in samples of the shard, and sums over them up to each beat and each zone.

    Queries take windows [start, end) in samples of the shard that lie inside their record, whose beats are
    ``beats[first:last]``; all are (n,). ``folder`` names the shard in messages, ``file`` finds its file of a name.
    Raises EcgrayError for arrays that no shard of ``samples`` samples can have.
    """

    def __init__(self, folder: str, file: Callable[[str], Path | RemoteFile], samples: int) -> None:
        self.beats: Ints = open_array(file("beats.npy"), np.int64, (None,), mapped=False)
        self.classes: npt.NDArray[np.uint8] = open_array(
            file("beat_class.npy"), np.uint8, (len(self.beats),), mapped=False
        )
        self.rhythms: Ints = open_array(file("rhythms.npy"), np.int64, (None, 3), mapped=False)
        self._check(folder, samples)
        self._samples = samples

    def _check(self, folder: str, samples: int) -> None:
        beats, start, end = self.beats, self.rhythms[:, 0], self.rhythms[:, 1]
        rules = {
            "beats.npy": not len(beats)
            or (beats[0] >= 0 and beats[-1] < samples and bool((np.diff(beats) >= 0).all())),
            "beat_class.npy": not len(beats) or self.classes.max() < len(BEATS),
            "rhythms.npy": not len(start)
            or (start[0] >= 0 and end[-1] <= samples and bool((start < end).all() and (start[1:] >= end[:-1]).all())),
            "the classes of rhythms.npy": bool(np.isin(self.rhythms[:, 2], range(len(RHYTHMS))).all()),
        }
        for name, holds in rules.items():
            if not holds:
                raise EcgrayError(
                    f"{name} in '{folder}' must ascend inside its shard and its vocabulary, got other values; "
                    "copy the shard set again or ingest again."
                )

    @cached_property
    def nbytes(self) -> int:
        """Memory once every sum is built."""
        # 8 bytes in Places, and up to 16 for its stretches, beside a sample, a class and the sums
        per_beat, per_zone = 32 + 1 + 4 * len(BEATS) + 1 + 8 * len(RHYTHMS), 48 + 8 * len(RHYTHMS)
        return len(self.beats) * per_beat + len(self.rhythms) * per_zone

    @cached_property
    def _beat_places(self) -> Places:
        return Places(self.beats, self._samples)

    @cached_property
    def _zone_places(self) -> Places:
        return Places(self.rhythms[:, 0], self._samples)

    @cached_property
    def _beats_before(self) -> npt.NDArray[np.int32]:
        """(beats + 1, classes): beats per class before each beat."""
        return _sums_before(self.classes, np.ones(len(self.classes), np.int32), len(BEATS))

    @cached_property
    def _rhythm_before(self) -> Ints:
        """(zones + 1, classes): samples per rhythm before each zone."""
        return _sums_before(self.rhythms[:, 2], self.rhythms[:, 1] - self.rhythms[:, 0], len(RHYTHMS))

    @cached_property
    def _beat_rhythm(self) -> npt.NDArray[np.uint8]:
        """Rhythm of the zone around each beat, undefined outside zones."""
        if not len(self.rhythms):
            return np.full(len(self.beats), UNDEFINED, np.uint8)
        zone = np.searchsorted(self.rhythms[:, 0], self.beats, side="right") - 1
        inside = (zone >= 0) & (self.beats < self.rhythms[zone, 1])
        return np.where(inside, self.rhythms[zone, 2], UNDEFINED).astype(np.uint8)

    @cached_property
    def _beat_rhythm_before(self) -> Ints:
        """(beats + 1, classes): samples per rhythm up to the beat before each beat, where a beat's rhythm reaches back
        to the beat before it. Differences are taken inside a record only."""
        return _sums_before(self._beat_rhythm, np.diff(self.beats, prepend=0), len(RHYTHMS))

    def beat_range(self, start: Ints, end: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints]:
        """Indices [low, high) of the beats in each window."""
        low = np.clip(self._beat_places.before(start), first, last)
        return low, np.clip(self._beat_places.before(end), low, last)

    def beat_counts(self, start: Ints, end: Ints, first: Ints, last: Ints, skip_first: bool) -> Ints:
        low, high = self.beat_range(start, end, first, last)
        if skip_first:
            low = np.minimum(low + 1, high)
        return (self._beats_before[high] - self._beats_before[low]).astype(np.int64)

    def beat_extent(self, start: Ints, end: Ints, first: Ints, last: Ints) -> Ints:
        """(n, 4): count, first, second and last beat, -1 where there is none."""
        low, high = self.beat_range(start, end, first, last)
        extent = np.full((len(low), 4), -1, np.int64)
        extent[:, 0] = count = high - low
        for column, index, needed in ((1, low, 1), (2, low + 1, 2), (3, high - 1, 1)):
            there = count >= needed
            extent[there, column] = self.beats[index[there]]
        return extent

    def rhythm_durations(self, start: Ints, end: Ints) -> Ints:
        return self._rhythm_up_to(end) - self._rhythm_up_to(start)

    def _rhythm_up_to(self, sample: Ints) -> Ints:
        """(n, classes): samples per rhythm from the shard's start to ``sample``."""
        begun = self._zone_places.before(sample + 1)
        total = self._rhythm_before[begun]
        if len(self.rhythms):
            latest = self.rhythms[begun - 1]
            ahead = np.where(begun > 0, np.maximum(latest[:, 1] - sample, 0), 0)
            total[np.arange(len(sample)), latest[:, 2]] -= ahead
        return total

    def rhythm_durations_by_beat(self, start: Ints, end: Ints, first: Ints, last: Ints) -> Ints:
        """A piece of the window ends at each beat after its start and carries that beat's rhythm; the piece that the
        window's end cuts carries the rhythm of the beat that ends it, or of the record's last beat where none does."""
        durations = np.zeros((len(start), len(RHYTHMS)), np.int64)
        opening = np.clip(self._beat_places.before(start + 1), first, last)
        closing = np.clip(self._beat_places.before(end), first, np.maximum(last - 1, first))
        row = np.arange(len(start))
        tail = opening >= last
        durations[row[tail], UNDEFINED] = (end - start)[tail]
        alone = ~tail & (closing <= opening)
        durations[row[alone], self._beat_rhythm[opening[alone]]] = (end - start)[alone]
        several = ~tail & ~alone
        a, b, several_row = opening[several], closing[several], row[several]
        durations[several] = self._beat_rhythm_before[b] - self._beat_rhythm_before[a + 1]
        durations[several_row, self._beat_rhythm[a]] += self.beats[a] - start[several]
        durations[several_row, self._beat_rhythm[b]] += end[several] - self.beats[b - 1]
        return durations


def _sums_before(classes: npt.NDArray[Any], weights: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """(n + 1, width): per class, the sum of weights before each element."""
    sums = np.zeros((len(classes) + 1, width), weights.dtype)
    sums[np.arange(1, len(classes) + 1), classes] = weights
    return np.cumsum(sums, axis=0, out=sums)
