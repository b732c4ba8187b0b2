"""What labelling costs beside cutting: the target call on a block of 8,192 frames alone, for each task and rule.

    python benchmarks/labelling.py [--repeats 3]

Future prediction has no target call: its answers come with the negatives that the plan draws, which is what is timed.
Cut and label follow each other block by block, over blocks that were not asked for before.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Bar, Spread, in_turn, keep, show_bars, show_table, words
from walks import write_walks

from ecgray.sampling.plan import SamplingConfig, make_plan
from ecgray.sampling.stream import cut_frames
from ecgray.shards.archive import Archive, open_archive
from ecgray.tasks import Beat, FuturePrediction, HeartRate, Rhythm

BLOCK, BATCH = 8192, 256
FRAME_SIZES = {"heart_rate": 512, "future": 512}
"""As the recipes have them; 2,048 else."""
TASKS = [task(rule=rule) for task in (Beat, Rhythm, HeartRate) for rule in ("paper", "code")]


class Labelling:
    """Cut and label of one task, block after block."""

    def __init__(self, archive: Archive, task: Any, blocks: int = 8) -> None:
        self._archive, self._task, self._blocks, self._step = archive, task, blocks, 0
        self.frame_size = FRAME_SIZES.get(task.name, 2048)
        self._plan = make_plan(archive, SamplingConfig(frame_size=self.frame_size), task, BATCH)

    def __call__(self) -> tuple[float, float]:
        """(milliseconds to cut a block, to label it), the mean over some blocks."""
        cut = labelled = 0.0
        lanes = range(self._plan.sampling.lanes)
        for _ in range(self._blocks):
            stretch = (self._step, self._step + BLOCK // BATCH, lanes)
            self._step = stretch[1]
            frames, times = self._plan.frames(*stretch), [time.perf_counter()]
            if self._task.negatives:
                negatives = self._plan.negatives(*stretch)
                times.append(time.perf_counter())
                cut_frames(self._archive, self._task, self.frame_size, frames, negatives)
            else:
                self._task.targets(*frames, self.frame_size, self._archive)
                times.append(time.perf_counter())
                self._archive.cut(*frames, self._task.span(self.frame_size))
            times.append(time.perf_counter())
            labelled += times[1] - times[0]
            cut += times[2] - times[1]
        return 1000 * cut / self._blocks, 1000 * labelled / self._blocks


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--gb", type=float, default=0.3, help="size of the shard set")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ecgray-bench-") as folder:
        archive = open_archive([write_walks(Path(folder) / "walks", megabytes=1000 * given.gb)])
        methods = {}
        for task in (*TASKS, FuturePrediction()):
            methods[f"{task.name}, {task.rule}" if hasattr(task, "rule") else task.name] = Labelling(archive, task)
        runs = in_turn(methods, given.repeats)
    rows, bars = [], []
    for name, times in runs.items():
        cut, label = (Spread.of(run[place] for run in times) for place in range(2))
        share = Spread.ratio([run[1] for run in times], [run[0] for run in times])
        rows.append({"task": name, "frame_size": methods[name].frame_size, "cut_ms": cut, "label_ms": label})
        bars.append(Bar(f"{name}: label / cut", share.median, most=1))
    show_table(
        f"A block of {BLOCK:,} frames, ms (range)",
        ["task", "samples", "cut", "label"],
        [(r["task"], r["frame_size"], r["cut_ms"].show(".1f"), r["label_ms"].show(".1f")) for r in rows],
    )
    show_bars(bars)
    kept = [row | {key: vars(row[key]) for key in ("cut_ms", "label_ms")} for row in rows]
    keep(given.out, "labelling", {"rows": kept}, bars)


if __name__ == "__main__":
    main()
