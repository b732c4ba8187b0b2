"""Which frame comes when: the run's frames as arithmetic on (records table, sampling settings, seed).

The run is an endless row of visits: pass after pass, each a new permutation of the training patients (papers.md W12,
W13), every visit giving ``frames_per_visit`` frames uniform in time over the patient's records. Visits are dealt to
``lanes`` in turn; a lane shuffles the frames of ``pool_patients`` consecutive visits (a pool). Global step s takes
positions [s b, (s + 1) b) of every lane, b = global_batch / lanes, whoever hosts the lane. All draws come from Philox
generators whose key is the seed and whose counter says what is drawn, so a pool needs none of the pools before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ecgray.errors import EcgrayError
from ecgray.sampling.draws import Draw, generator
from ecgray.sampling.split import ClassTable, split_patients
from ecgray.sampling.starts import StartTable

Ints = npt.NDArray[np.int64]
Frames = tuple[Ints, Ints]
Negatives = tuple[Ints, Ints, Ints]

POOLS_KEPT = 2
"""Pools that a plan remembers per lane: two blocks that follow each other meet in at most two."""

MOST_FRAMES = 10**7
"""Of a pool, which is drawn at once, and of a patient in the validation set."""


class RecordsTable(ClassTable, Protocol):
    """What a plan reads of an archive: one entry per record."""

    fs: float
    samples: npt.NDArray[np.int64]

    @property
    def gaps(self) -> npt.NDArray[np.int64]:
        """(k, 3): record, start, end of every stretch that no frame may touch, ascending."""
        ...


class SampledTask(Protocol):
    """What a plan asks of a task. One with negatives also says ``exclude_record``."""

    @property
    def negatives(self) -> int: ...

    def window(self, frame_size: int, fs: float) -> tuple[int, int]: ...


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How frames are drawn."""

    frame_size: int = 2048
    """Samples of a frame."""
    frames_per_patient: int = 4096
    """Budget that training.steps defaults to: frames of each training patient (papers.md W11)."""
    frames_per_visit: int = 128
    """Frames that a patient gives in each pass."""
    pool_patients: int = 16
    """Visits shuffled together, and whose records negatives are from (papers.md W12, W32)."""
    lanes: int = 8
    """Independent streams of frames; the most workers that can share the run."""
    val_fraction: float = 0.05
    """Share of patients held out (papers.md W8)."""
    val_frames_per_patient: int = 128
    """Frames of each held-out patient in the fixed validation set, as many as of a visit (papers.md W9)."""
    seed: int = 0
    """What the split and all frames are drawn from."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = MOST_FRAMES if field.name == "val_frames_per_patient" else 10**12
            if field.name == "val_fraction":
                if not 0 < value < 1:
                    raise EcgrayError(
                        f"sampling.val_fraction must lie between 0 and 1, got {value}; the papers hold out 0.05."
                    )
            elif field.name == "seed":
                if not 0 <= value < 2**63:
                    raise EcgrayError(f"sampling.seed must be 0 or more and below 2**63, got {value}; give another.")
            elif not 1 <= value <= most:
                raise EcgrayError(
                    f"sampling.{field.name} must be at least 1 and at most {most}, got {value}; give another number."
                )
        if self.pool_patients * self.frames_per_visit > MOST_FRAMES:
            raise EcgrayError(
                f"A pool of sampling.pool_patients times sampling.frames_per_visit must hold at most {MOST_FRAMES} "
                f"frames, got {self.pool_patients} times {self.frames_per_visit}; lower one of them."
            )


class Plan:
    """Frames and negatives of any stretch of steps, without history. Made by ``make_plan``; picklable."""

    def __init__(
        self,
        sampling: SamplingConfig,
        global_batch: int,
        starts: StartTable,
        negative_starts: StartTable | None,
        train_patients: Ints,
        val_patients: Ints,
        negatives: int = 0,
        exclude_record: bool = False,
    ) -> None:
        self.sampling = sampling
        self.global_batch = global_batch
        self.lane_batch = global_batch // sampling.lanes
        self.train_patients = train_patients
        self.val_patients = val_patients
        self.negatives_per_frame = negatives
        self._exclude_record = exclude_record
        self._starts = starts
        self._negative_starts = negative_starts
        self._orders: dict[int, Ints] = {}
        self._pools: dict[int, tuple[tuple[int, Frames], ...]] = {}
        self._pool_negatives: dict[int, tuple[tuple[int, Negatives], ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}, "_pools": {}, "_pool_negatives": {}}

    @property
    def pool_frames(self) -> int:
        """Frames of one pool."""
        return self.sampling.pool_patients * self.sampling.frames_per_visit

    @property
    def steps_per_budget(self) -> int:
        """Steps in which the training patients give ``frames_per_patient`` frames each, on average."""
        return max(1, len(self.train_patients) * self.sampling.frames_per_patient // self.global_batch)

    def lanes_of(self, rank: int, world: int) -> tuple[int, ...]:
        """The lanes that worker ``rank`` of ``world`` hosts.

        Raises EcgrayError when there are more workers than lanes.
        """
        if world > self.sampling.lanes:
            raise EcgrayError(
                f"A run must have at most as many workers as lanes, got {world} workers and "
                f"sampling.lanes={self.sampling.lanes}; raise sampling.lanes or take fewer workers."
            )
        return tuple(range(rank, self.sampling.lanes, world))

    def frames(self, first_step: int, last_step: int, lanes: Sequence[int]) -> Frames:
        """(record, start), each (n,): frames of steps [first_step, last_step) on ``lanes``, as they are consumed.

        The order is step, then lane in the order given, then position; n = steps * len(lanes) * lane_batch.
        """
        parts = [self._stretch(self._pool, first_step, last_step, lane) for lane in lanes]
        record, start = (self._interleave([part[i] for part in parts]) for i in range(2))
        return record, start

    def negatives(self, first_step: int, last_step: int, lanes: Sequence[int]) -> Negatives:
        """(record (n, k), start (n, k), place (n,)): the k negatives of every frame that ``frames`` gives.

        A negative's record is uniform over the records of its pool's patients that hold a frame, its start uniform
        (papers.md W32, the buffer being the pool). ``place`` is where the positive stands among k + 1 candidates (W34).
        """
        parts = [self._stretch(self._negatives_of_pool, first_step, last_step, lane) for lane in lanes]
        record, start, place = (self._interleave([part[i] for part in parts]) for i in range(3))
        return record, start, place

    def validation(self) -> Frames:
        """(record, start), each (n,): the fixed validation frames, equally many of every held-out patient."""
        draw = generator(self.sampling.seed, Draw.VALIDATION)
        record, start = self._starts.draw(self.val_patients, self.sampling.val_frames_per_patient, draw)
        return record.ravel(), start.ravel()

    def validation_negatives(self) -> Negatives:
        """As ``negatives``, for the frames of ``validation``; its pools are groups of about ``pool_patients``."""
        record, _ = self.validation()
        groups = np.array_split(self.val_patients, -(-len(self.val_patients) // self.sampling.pool_patients))
        parts, done = [], 0
        for number, patients in enumerate(groups):
            frames = len(patients) * self.sampling.val_frames_per_patient
            draw = generator(self.sampling.seed, Draw.VALIDATION_NEGATIVES, number)
            parts.append(self._draw_negatives(patients, record[done : done + frames], draw))
            done += frames
        records, starts, places = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return records, starts, places

    def pool_patients(self, lane: int, pool: int) -> Ints:
        """(pool_patients,) codes of the patients that a lane visits in its pool number ``pool``."""
        visit = np.arange(pool * self.sampling.pool_patients, (pool + 1) * self.sampling.pool_patients)
        passes, place = np.divmod(visit * self.sampling.lanes + lane, len(self.train_patients))
        patients = np.empty(len(visit), np.int64)
        for number in np.unique(passes):
            here = passes == number
            patients[here] = self._pass_order(int(number))[place[here]]
        return patients

    def _pass_order(self, number: int) -> Ints:
        order = self._orders.get(number)
        if order is None:
            order = generator(self.sampling.seed, Draw.PASS, number).permutation(self.train_patients)
            # All lanes walk through the same few passes: those that one pool can touch, and their neighbours.
            kept = 2 + 2 * self.sampling.pool_patients * self.sampling.lanes // len(self.train_patients)
            self._orders = dict(list(self._orders.items())[1 - kept :]) | {number: order}
        return order

    def _pool(self, lane: int, pool: int) -> Frames:
        cached = _find(self._pools.get(lane, ()), pool)
        if cached is not None:
            return cached
        draw = generator(self.sampling.seed, Draw.FRAMES, lane, pool)
        patients = self.pool_patients(lane, pool)
        record, start = self._starts.draw(patients, self.sampling.frames_per_visit, draw)
        shuffled = draw.permutation(self.pool_frames)
        frames = record.ravel()[shuffled], start.ravel()[shuffled]
        # One assignment of a new tuple: threads that share the plan may compute a pool twice, never read half of one.
        self._pools[lane] = (*self._pools.get(lane, ())[1 - POOLS_KEPT :], (pool, frames))
        return frames

    def _negatives_of_pool(self, lane: int, pool: int) -> Negatives:
        cached = _find(self._pool_negatives.get(lane, ()), pool)
        if cached is not None:
            return cached
        draw = generator(self.sampling.seed, Draw.NEGATIVES, lane, pool)
        drawn = self._draw_negatives(self.pool_patients(lane, pool), self._pool(lane, pool)[0], draw)
        self._pool_negatives[lane] = (*self._pool_negatives.get(lane, ())[1 - POOLS_KEPT :], (pool, drawn))
        return drawn

    def _draw_negatives(self, patients: Ints, positive: Ints, draw: np.random.Generator) -> Negatives:
        if self._negative_starts is None:
            raise ValueError("this plan was made for a task without negatives")
        k = self.negatives_per_frame
        record, start = self._negative_starts.draw_apart(
            np.unique(patients), positive, k, draw, exclude=self._exclude_record
        )
        return record, start, draw.integers(0, k + 1, len(positive))

    def _stretch(self, pool_of: Any, first_step: int, last_step: int, lane: int) -> tuple[Ints, ...]:
        """Positions [first_step b, last_step b) of a lane, cut out of its pools."""
        first, last = first_step * self.lane_batch, last_step * self.lane_batch
        parts = []
        first_pool = first // self.pool_frames
        for pool in range(first_pool, max(-(-last // self.pool_frames), first_pool + 1)):
            here = pool * self.pool_frames
            cut = slice(max(first - here, 0), min(last - here, self.pool_frames))
            parts.append(tuple(column[cut] for column in pool_of(lane, pool)))
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _interleave(self, lanes: list[Ints]) -> Ints:
        """Columns (steps * b, ...) of several lanes as one (steps * lanes * b, ...), step by step."""
        if len(lanes) == 1:
            return lanes[0]
        tail = lanes[0].shape[1:]
        return np.stack([lane.reshape(-1, self.lane_batch, *tail) for lane in lanes], axis=1).reshape(-1, *tail)


def _find(kept: tuple[tuple[int, Any], ...], pool: int) -> Any:
    return next((value for number, value in kept if number == pool), None)


def make_plan(archive: RecordsTable, sampling: SamplingConfig, task: SampledTask, global_batch: int) -> Plan:
    """The plan of a run over ``archive``: equal arguments, equal frames, in any process.

    Patients without a record long enough for the task's window give no frames and stand on neither side of the split.
    Raises EcgrayError when ``global_batch`` is no multiple of the lanes, when no record is long enough, and when the
    split leaves a side without patients.
    """
    if global_batch < 1 or global_batch % sampling.lanes:
        raise EcgrayError(
            f"The global batch must be a multiple of sampling.lanes, got a batch of {global_batch} and "
            f"{sampling.lanes} lanes; choose the batch or the lanes accordingly."
        )
    before, after = task.window(sampling.frame_size, archive.fs)
    starts = StartTable(archive.patient, archive.samples, before, after, archive.gaps)
    if not len(starts.record):
        where = " between its gaps" if len(archive.gaps) else ""
        raise EcgrayError(
            f"A record must hold {before + after} samples for this task and frame size{where}, got none (the longest "
            f"has {starts.longest}); choose a smaller sampling.frame_size or other shards."
        )
    usable = np.zeros(len(archive.samples), bool)
    usable[starts.record] = True
    train, val = split_patients(archive, sampling.val_fraction, sampling.seed, usable)
    negative_starts = None
    if task.negatives:
        negative_starts = StartTable(archive.patient, archive.samples, 0, sampling.frame_size, archive.gaps)
    plan = Plan(
        sampling=sampling,
        global_batch=global_batch,
        starts=starts,
        negative_starts=negative_starts,
        train_patients=train,
        val_patients=val,
        negatives=task.negatives,
        exclude_record=bool(getattr(task, "exclude_record", False)),
    )
    plan.frames(0, 1, range(sampling.lanes))  # the first touch of a large table costs ten times the next
    return plan
