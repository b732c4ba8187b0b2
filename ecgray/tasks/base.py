"""What a pretraining task is: a question to a frame, as data and one vectorised rule."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ecgray.config import Named

IGNORED = -1
"""Target of a frame that is dropped: its place in the batch stays, its loss and metrics do not count."""


class Annotations(Protocol):
    """What a task may ask of the annotations, for a whole block of windows at once.

    ``record`` (n,), ``start`` (n,), ``end`` (n,): windows [start, end) in samples of their record.
    Implemented by ``ecgray.shards.archive.Archive``.
    """

    fs: float

    def beat_counts(
        self,
        record: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
        *,
        skip_first: bool = False,
    ) -> npt.NDArray[np.int64]:
        """(n, len(BEATS)) beats per class; ``skip_first`` leaves out each window's first beat."""
        ...

    def beat_extent(
        self, record: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(count, first, second, last): number of beats of any class, and samples of the first, second and last beat
        (record-relative; -1 where there is none)."""
        ...

    def rhythm_durations(
        self, record: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """(n, len(RHYTHMS)) samples of the window in each rhythm zone; time in no zone counts in no class."""
        ...

    def rhythm_durations_by_beat(
        self, record: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """(n, len(RHYTHMS)) samples when every beat carries the rhythm of its zone back to the beat before
        (the published code's reading)."""
        ...


class Task(Named):
    """A frozen dataclass whose fields are the task's settings.

    A new task is one module with one subclass, and one line in ``ecgray.tasks.TASKS``.
    """

    paper: ClassVar[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the targets in order; empty where the target is a place among candidates."""
        raise NotImplementedError

    def window(self, frame_size: int, fs: float) -> tuple[int, int]:
        """(before, after): samples that must exist before a frame's start, and from its start on."""
        return 0, frame_size

    def span(self, frame_size: int) -> int:
        """Samples of signal that the network gets of each sample, without the negatives: the frame, or
        the context frames and the positive of future prediction (which do not lie side by side)."""
        return frame_size

    @property
    def negatives(self) -> int:
        """Negative frames that each sample needs (future prediction), else 0."""
        return 0

    def unanswered(self, *, beats: int, rhythm_seconds: float) -> str:
        """After "got no": what data lacks that answers no frame, and how its owner goes on. The data hold that many
        beats, of any class, and seconds of rhythms."""
        return "answer to it; take other records, or another task"

    def targets(
        self,
        record: npt.NDArray[np.int64],
        start: npt.NDArray[np.int64],
        frame_size: int,
        annotations: Annotations,
    ) -> npt.NDArray[np.int64]:
        """(n,) class indices of a whole block of frames, ``IGNORED`` where a frame is dropped."""
        raise NotImplementedError
