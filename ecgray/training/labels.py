"""How often each class is asked for in the training frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ecgray.sampling.plan import Plan
from ecgray.shards.archive import Archive
from ecgray.tasks.base import Task

FRAMES = 32_768


@dataclass(frozen=True)
class LabelHistogram:
    """``counts`` int64 (classes,) of ``classes`` by name, and the frames that are dropped."""

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    dropped: int

    @property
    def named(self) -> dict[str, int]:
        """Counts by name, ``dropped`` among them."""
        return dict(zip(self.classes, self.counts.tolist(), strict=True)) | {"dropped": self.dropped}


def label_histogram(archive: Archive, plan: Plan, task: Task) -> LabelHistogram:
    """Targets of the run's first 32,768 frames, which are those of training patients alone. Reads no signal.

    Tasks with negatives count the places of the positive.
    """
    lanes = range(plan.sampling.lanes)
    steps = -(-FRAMES // plan.global_batch)
    if task.negatives:
        target = plan.negatives(0, steps, lanes)[2]
        classes = tuple(str(place) for place in range(task.negatives + 1))
    else:
        record, start = plan.frames(0, steps, lanes)
        target = task.targets(record, start, plan.sampling.frame_size, archive)
        classes = task.classes
    counts = np.bincount(target + 1, minlength=len(classes) + 1)
    return LabelHistogram(classes, counts[1:], int(counts[0]))
