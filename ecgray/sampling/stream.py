"""Batches of labelled frames, from any step on: the common part of both backends.

The unit of work is a block: a stretch of consecutive steps for one worker's lanes, cut and labelled in one go. A batch
is a view of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ecgray.errors import unknown
from ecgray.sampling.plan import Frames, Negatives, Plan, SampledTask

Ints = npt.NDArray[np.int64]

BACKENDS = ("local", "ray")


class Archive(Protocol):
    """What a stream asks of ``ecgray.shards.archive.Archive``; tasks ask for more, through ``targets``."""

    fs: float
    leads: tuple[str, ...]

    def cut(self, record: Ints, start: Ints, span: int) -> npt.NDArray[np.int16]: ...


class StreamedTask(SampledTask, Protocol):
    """What a stream asks of a task. One with negatives also has ``context`` and ``future_start``."""

    def span(self, frame_size: int) -> int: ...

    def targets(self, record: Ints, start: Ints, frame_size: int, annotations: Any) -> Ints: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """The frames of one step on one worker's lanes (or of a block, or of the validation set).

    signal: int16 (n, leads, samples), ADC units; target: int64 (n,), -1 where the frame is dropped; record, start:
    int64 (n,), where each frame comes from; slot_record: int64 (n, slots), the record of each of the equal parts that
    ``samples`` is made of, since gain and baseline differ between records. One slot, or for a task with negatives the
    context frames and then the candidates, the positive among them at place ``target``.

    The arrays are views and may be read-only; whoever wants to write, or to keep many of them, copies.
    """

    signal: npt.NDArray[np.int16]
    target: Ints
    record: Ints
    start: Ints
    slot_record: Ints

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, first: int, last: int) -> Batch:
        """Rows [first, last) as views."""
        return Batch(
            self.signal[first:last],
            self.target[first:last],
            self.record[first:last],
            self.start[first:last],
            self.slot_record[first:last],
        )


def open_stream(
    archive: Archive,
    plan: Plan,
    task: StreamedTask,
    *,
    backend: Literal["local", "ray"],
    first_step: int,
    last_step: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """One Batch per step of [first_step, last_step): the frames of this rank's lanes, lane by lane.

    Both backends give the same batches to the last bit. ``local`` works in this process and its threads; ``ray`` on
    Ray Data, from inside a training worker or any other process connected to a cluster. Closing the iterator ends both.
    Raises EcgrayError when there are more workers than lanes, or no CPU is left for Ray Data.
    """
    lanes = plan.lanes_of(rank, world)
    if backend == "local":
        from ecgray.sampling.local import stream_local

        return stream_local(archive, plan, task, first_step, last_step, lanes)
    if backend == "ray":
        from ecgray.sampling.ray_data import stream_ray

        return stream_ray(archive, plan, task, first_step, last_step, lanes, world)
    raise unknown("stream backend", backend, BACKENDS)


def validation_batches(
    archive: Archive, plan: Plan, task: StreamedTask, batch: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """This rank's stretch of the fixed validation frames, ``batch`` at a time; cut in this process.

    A stretch is of few patients, so that ranks on different machines need different shards.
    """
    record, start = plan.validation()
    negatives = plan.validation_negatives() if task.negatives else None
    begin, end = len(record) * rank // world, len(record) * (rank + 1) // world
    for first in range(begin, end, batch):
        rows = slice(first, min(first + batch, end))
        drawn = None if negatives is None else (negatives[0][rows], negatives[1][rows], negatives[2][rows])
        yield cut_frames(archive, task, plan.sampling.frame_size, (record[rows], start[rows]), drawn)


def cut_block(
    archive: Archive, plan: Plan, task: StreamedTask, first_step: int, last_step: int, lanes: Sequence[int]
) -> Batch:
    """All frames of steps [first_step, last_step) on ``lanes``, in the order of consumption, cut and labelled."""
    negatives = plan.negatives(first_step, last_step, lanes) if task.negatives else None
    return cut_frames(archive, task, plan.sampling.frame_size, plan.frames(first_step, last_step, lanes), negatives)


def cut_frames(
    archive: Archive, task: Any, frame_size: int, frames: Frames, negatives: Negatives | None = None
) -> Batch:
    """Frames, given as (record, start), as a Batch: cut as int16 and labelled in one vectorised call."""
    record, start = frames
    if negatives is None:
        signal = archive.cut(record, start, task.span(frame_size))
        return Batch(signal, task.targets(record, start, frame_size, archive), record, start, record[:, None])
    slot_record, slot_start = _slots(task, frame_size, record, start, negatives)
    n, slots = slot_record.shape
    cut = archive.cut(slot_record.ravel(), slot_start.ravel(), frame_size).reshape(n, slots, -1, frame_size)
    # Slots stand side by side in time: for one lead this moves nothing, for several it is the one copy.
    signal = cut.transpose(0, 2, 1, 3).reshape(n, -1, slots * frame_size)
    return Batch(signal, negatives[2], record, start, slot_record)


def _slots(task: Any, frame_size: int, record: Ints, start: Ints, negatives: Negatives) -> Frames:
    """(record, start), each (n, context + 1 + negatives): context frames, then candidates with the positive placed."""
    negative_record, negative_start, place = negatives
    n, count = negative_record.shape
    context = task.context
    slot_record = np.empty((n, context + 1 + count), np.int64)
    slot_start = np.empty_like(slot_record)
    slot_record[:, :context] = record[:, None]
    slot_start[:, :context] = start[:, None] + np.arange(context) * frame_size
    positive = np.arange(count + 1) == place[:, None]
    for slots, of_positive, of_negatives in (
        (slot_record[:, context:], record, negative_record),
        (slot_start[:, context:], task.future_start(start, frame_size), negative_start),
    ):
        slots[positive] = of_positive
        slots[~positive] = of_negatives.ravel()
    return slot_record, slot_start


def step_bytes(archive: Archive, plan: Plan, task: Any, lanes: Sequence[int]) -> int:
    """Bytes of signal in one step's frames on ``lanes``."""
    frame_size = plan.sampling.frame_size
    samples = (task.context + 1 + task.negatives) * frame_size if task.negatives else task.span(frame_size)
    return len(lanes) * plan.lane_batch * len(archive.leads) * samples * 2
