"""Every place where a frame may start, as one row of integers, and uniform draws from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class StartTable:
    """All starts of all records, patient after patient, record after record, without listing them.

    A frame at start t needs the samples [t - before, t + after) of its record, none of them in a gap, so a stretch of n
    samples between two gaps has n - before - after + 1 starts; shorter ones have none, and records without any are
    left out.

    ``gaps``: (k, 3) rows of record, start, end, ascending; None where there are none.
    """

    def __init__(
        self,
        patient: npt.NDArray[np.integer],
        samples: npt.NDArray[np.integer],
        before: int,
        after: int,
        gaps: Ints | None = None,
    ) -> None:
        lengths: Ints = np.asarray(samples, np.int64)
        if gaps is None or not len(gaps):
            room = np.maximum(lengths - (before + after) + 1, 0)
            self.longest = int(lengths.max(initial=0))
        else:
            owner, begin, length = _stretches(lengths, gaps)
            starts = np.maximum(length - (before + after) + 1, 0)
            room = np.bincount(owner, weights=starts, minlength=len(lengths)).astype(np.int64)
            self.longest = int(length.max(initial=0))
        long_enough = np.flatnonzero(room)
        #: (m,) records with room for a frame, sorted by patient, then by number.
        self.record: Ints = long_enough[np.argsort(patient[long_enough], kind="stable")]
        codes = int(patient.max(initial=-1)) + 1
        self._before = before
        #: (m,) starts in each of those records.
        self._room: Ints = room[self.record]
        #: (codes + 1,) where each patient's records begin in ``record``.
        self._patient_edge: Ints = np.searchsorted(patient[self.record], np.arange(codes + 1)).astype(np.int64)
        self._row: Ints = np.full(len(samples), -1, np.int64)
        self._row[self.record] = np.arange(len(self.record))
        self._stretches: tuple[Ints, Ints, Ints] | None = None
        if gaps is not None and len(gaps):
            order = np.argsort(self._row[owner], kind="stable")
            order = order[starts[order] > 0]
            edge = np.concatenate([[0], np.cumsum(starts[order])])
            of_row = np.searchsorted(self._row[owner[order]], np.arange(len(self.record)))
            #: where each row's starts begin among all starts of all stretches; where each stretch's begin; its first
            self._stretches = edge[of_row], edge, begin[order]

    def draw(self, patients: Ints, frames: int, draw: np.random.Generator) -> tuple[Ints, Ints]:
        """(record, start), each (patients, frames): uniform over all starts of each patient, so uniform in time.

        Each patient's frames come sorted, since sorted numbers are found three times as fast.
        """
        rows, bounds = self._rows_of(patients)
        edge = np.concatenate([[0], np.cumsum(self._room[rows])])
        first = edge[bounds[:-1], None]
        place = np.sort(first + _below(edge[bounds[1:], None] - first, (len(patients), frames), draw), axis=1)
        chosen = np.searchsorted(edge, place, side="right") - 1
        row = rows[chosen]
        return self.record[row], self._start(row, place - edge[chosen])

    def draw_apart(
        self, patients: Ints, positive: Ints, count: int, draw: np.random.Generator, *, exclude: bool
    ) -> tuple[Ints, Ints]:
        """(record, start), each (n, count): frames for the n records ``positive``, from the records of ``patients``.

        ``patients`` ascend and own the positives. The record is uniform over their records, whatever the lengths, the
        start uniform in it. ``exclude``: never the positive's own record, unless it is the only one.
        """
        rows, _ = self._rows_of(patients)
        shape = (len(positive), count)
        if exclude and len(rows) > 1:
            chosen = _below(len(rows) - 1, shape, draw)
            own = np.searchsorted(rows, self._row[positive])
            chosen += chosen >= own[:, None]
        else:
            chosen = _below(len(rows), shape, draw)
        row = rows[chosen]
        return self.record[row], self._start(row, _below(self._room[row], shape, draw))

    def _start(self, row: Ints, number: Ints) -> Ints:
        """Where the starts with these numbers lie in the records of ``row``."""
        if self._stretches is None:
            return number + self._before
        of_row, edge, begin = self._stretches
        place = of_row[row] + number
        stretch = np.searchsorted(edge, place, side="right") - 1
        return place - edge[stretch] + begin[stretch] + self._before

    def _rows_of(self, patients: Ints) -> tuple[Ints, Ints]:
        """Rows of ``record`` of several patients one after another, and (patients + 1,) where each begins."""
        first = self._patient_edge[patients]
        count = self._patient_edge[patients + 1] - first
        bounds = np.concatenate([[0], np.cumsum(count)])
        return np.arange(bounds[-1]) + np.repeat(first - bounds[:-1], count), bounds


def _stretches(samples: Ints, gaps: Ints) -> tuple[Ints, Ints, Ints]:
    """(record, first sample, length) of what lies between the gaps, record after record."""
    record = np.arange(len(samples))
    owner = np.concatenate([record, gaps[:, 0]])
    begin = np.concatenate([np.zeros(len(samples), np.int64), gaps[:, 2]])
    order = np.lexsort((begin, owner))
    # A stretch ends at the next gap of its record, the last one where the record ends: as many ends as beginnings.
    end = np.concatenate([gaps[:, 1], samples])
    ends = np.lexsort((end, np.concatenate([gaps[:, 0], record])))
    return owner[order], begin[order], end[ends] - begin[order]


def _below(count: Ints | int, shape: tuple[int, ...], draw: np.random.Generator) -> Ints:
    """Uniform integers in [0, count), counts differing by entry.

    A scaled double is five times faster than ``integers`` with an array of bounds, never reaches ``count``, and favours
    no value by more than count / 2**53.
    """
    return (draw.random(shape) * count).astype(np.int64)
