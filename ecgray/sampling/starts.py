"""Every place where a frame may start, as one row of integers, and uniform draws from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class StartTable:
    """All starts of all records, patient after patient, record after record, without listing them.

    A frame at start t needs the samples [t - before, t + after) of its record, so a record of n samples has
    n - before - after + 1 starts; shorter records have none and are left out.
    """

    def __init__(
        self, patient: npt.NDArray[np.integer], samples: npt.NDArray[np.integer], before: int, after: int
    ) -> None:
        room = np.maximum(np.asarray(samples, np.int64) - (before + after) + 1, 0)
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

    def draw(self, patients: Ints, frames: int, draw: np.random.Generator) -> tuple[Ints, Ints]:
        """(record, start), each (patients, frames): uniform over all starts of each patient, so uniform in time.

        Each patient's frames come sorted, since sorted numbers are found three times as fast.
        """
        rows, bounds = self._rows_of(patients)
        edge = np.concatenate([[0], np.cumsum(self._room[rows])])
        first = edge[bounds[:-1], None]
        place = np.sort(first + _below(edge[bounds[1:], None] - first, (len(patients), frames), draw), axis=1)
        chosen = np.searchsorted(edge, place, side="right") - 1
        return self.record[rows[chosen]], place - edge[chosen] + self._before

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
        return self.record[row], _below(self._room[row], shape, draw) + self._before

    def _rows_of(self, patients: Ints) -> tuple[Ints, Ints]:
        """Rows of ``record`` of several patients one after another, and (patients + 1,) where each begins."""
        first = self._patient_edge[patients]
        count = self._patient_edge[patients + 1] - first
        bounds = np.concatenate([[0], np.cumsum(count)])
        return np.arange(bounds[-1]) + np.repeat(first - bounds[:-1], count), bounds


def _below(count: Ints | int, shape: tuple[int, ...], draw: np.random.Generator) -> Ints:
    """Uniform integers in [0, count), counts differing by entry.

    A scaled double is five times faster than ``integers`` with an array of bounds, never reaches ``count``, and favours
    no value by more than count / 2**53.
    """
    return (draw.random(shape) * count).astype(np.int64)
