"""The ways to deliver the same labelled frames: ecgray's two backends, a bare loop, and a map-style DataLoader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from delivery import Batches

from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.stream import _slots, cut_block, open_stream
from ecgray.shards.archive import open_archive
from ecgray.tasks import Beat, FuturePrediction

BATCH = 256
BLOCK = 4096


@dataclass(frozen=True)
class Setting:
    """``frames`` are delivered by the loop and the streams, ``loader_frames`` by slower methods."""

    name: str
    frame_size: int
    leads: int
    future: bool
    frames: int
    loader_frames: int


SETTINGS = {
    "512": Setting("512", 512, 1, False, 1 << 20, 128 * BATCH),
    "2048": Setting("2048", 2048, 1, False, 1 << 19, 128 * BATCH),
    "4096": Setting("4096", 4096, 1, False, 1 << 18, 64 * BATCH),
    "future": Setting("future 25 x 512", 512, 1, True, 1 << 16, 16 * BATCH),
    "12x5000": Setting("12 x 5000", 5000, 12, False, 1 << 14, 8 * BATCH),
}


class Deliveries:
    """One setting over one shard set: every method as a generator of (signal, target) batches.

    The loop is ``out[i] = signal[s:s+F]`` from the memory map into one block that is used again and again, plus the
    same targets in one call per block.
    """

    def __init__(self, setting: Setting, shards: str) -> None:
        self.setting, self.shards = setting, shards
        self.archive = open_archive([shards])
        self.task = FuturePrediction() if setting.future else Beat()
        self.plan = make_plan(self.archive, SamplingConfig(frame_size=setting.frame_size), self.task, BATCH)
        self.steps = setting.frames // BATCH
        self.lanes = range(8)
        files = sorted(Path(shards).glob("shard-*/signal.npy"))
        # Plain arrays over the maps: slicing a np.memmap itself costs a Python call more for each frame.
        self.maps = [np.asarray(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files]
        self.singles = [signal[0] for signal in self.maps]

    def loop(self) -> Batches:
        archive, task, size = self.archive, self.task, self.setting.frame_size
        block_steps = BLOCK // BATCH if self.setting.leads == 1 and not self.setting.future else 1
        out = None
        for first in range(0, self.steps, block_steps):
            stretch = (first, min(first + block_steps, self.steps), self.lanes)
            record, start = self.plan.frames(*stretch)
            n = len(record)
            where = list(zip(archive.shard[record].tolist(), (archive.offset[record] + start).tolist(), strict=True))
            maps, singles = self.maps, self.singles
            if out is None:
                out = np.empty((n, self.setting.leads, (25 if self.setting.future else 1) * size), np.int16)
            if self.setting.future:
                target = self._future(stretch, where, out)
            else:
                if self.setting.leads == 1:
                    flat = out[:, 0]
                    for i, (shard, s) in enumerate(where):
                        flat[i] = singles[shard][s : s + size]
                else:
                    for i, (shard, s) in enumerate(where):
                        out[i] = maps[shard][:, s : s + size]
                target = task.targets(record, start, size, archive)
            for row in range(0, n, BATCH):
                yield out[row : row + BATCH], target[row : row + BATCH]

    def _future(self, stretch: Any, where: list[tuple[int, int]], out: np.ndarray) -> np.ndarray:
        archive, size, context = self.archive, self.setting.frame_size, self.task.context
        record, start, place = self.plan.negatives(*stretch)
        shards, offsets = archive.shard[record].tolist(), (archive.offset[record] + start).tolist()
        ahead = (context + self.task.offset) * size
        maps = self.singles
        for i, (shard, s) in enumerate(where):
            row, at = out[i, 0], int(place[i])
            row[: context * size] = maps[shard][s : s + context * size]
            candidates = list(zip(shards[i], offsets[i], strict=True))
            candidates.insert(at, (shard, s + ahead))
            for j, (other, t) in enumerate(candidates, start=context):
                row[j * size : (j + 1) * size] = maps[other][t : t + size]
        return place

    def local(self) -> Batches:
        return self._stream("local")

    def ray(self) -> Batches:
        return self._stream("ray")

    def _stream(self, backend: str) -> Batches:
        stream = open_stream(
            self.archive,
            self.plan,
            self.task,
            backend=backend,
            first_step=0,
            last_step=self.steps,  # type: ignore[arg-type]
        )
        for batch in stream:
            yield batch.signal, batch.target

    def written(self) -> tuple[np.ndarray, np.ndarray]:
        """(signal, target) of the first ``loader_frames`` frames, for formats that hold frames."""
        block = cut_block(self.archive, self.plan, self.task, 0, self.setting.loader_frames // BATCH, self.lanes)
        return block.signal, block.target

    def loader(self, workers: int, given: bool) -> Batches:
        """Items are frames with their targets, as a map-style data set has them; ``given``: targets come from one call
        before the first batch instead (future prediction: always, from the plan)."""
        import torch

        steps = self.setting.loader_frames // BATCH // (1 if given else 4)
        archive, task = self.archive, self.task
        record, start = self.plan.frames(0, steps, self.lanes)
        shard, offset = self.archive.shard[record], self.archive.offset[record] + start
        size, maps = self.setting.frame_size, self.maps
        if self.setting.future:
            negatives = self.plan.negatives(0, steps, self.lanes)
            slot_record, slot_start = _slots(self.task, size, record, start, negatives)
            slot_shard, slot_offset = self.archive.shard[slot_record], self.archive.offset[slot_record] + slot_start
            target = negatives[2]
        elif given:
            target = task.targets(record, start, size, archive)

        class Frames(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(record)

            def __getitem__(self, i: int) -> tuple[Any, Any]:
                if slots:
                    parts = [maps[a][:, b : b + size] for a, b in zip(slot_shard[i], slot_offset[i], strict=True)]
                    return np.concatenate(parts, axis=1), target[i]
                label = target[i] if given else task.targets(record[i : i + 1], start[i : i + 1], size, archive)[0]
                return np.array(maps[shard[i]][:, offset[i] : offset[i] + size]), label

        slots = self.setting.future
        forks = "fork" if workers else None
        loader = torch.utils.data.DataLoader(
            Frames(), batch_size=BATCH, num_workers=workers, multiprocessing_context=forks
        )
        for signal, labels in loader:
            yield signal.numpy(), labels
