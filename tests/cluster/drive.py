"""A driver that trains slowly and writes down what it trains on: `python drive.py SETTINGS`, a JSON object.

Steps are as on any other driver; before each, the worker sleeps, so that there is a middle in which to be killed, and
adds "start,step,record,start of frame" to <run>.frames/<rank>. A start is named by its time, so that a later one
follows in the alphabet.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ecgray.models
import ecgray.tasks  # noqa: F401  (what configs name)
from ecgray.config import from_dict
from ecgray.training import ray_worker
from ecgray.training.config import PretrainConfig
from ecgray.training.pretraining import pretrain

train = ray_worker.work


def work(settings: dict[str, Any]) -> None:
    from ecgray.training.loop import Training

    frames = Path(settings["run"] + ".frames")
    frames.mkdir(exist_ok=True)
    begun, seconds, plain = f"{time.time():.3f}", given["step_seconds"], Training._step

    def traced(self: Training, batch: Any) -> Any:
        time.sleep(seconds)
        with open(frames / f"{self._distributed.rank}", "a") as file:
            rows = zip(batch.record, batch.start, strict=True)
            file.writelines(f"{begun},{self.state.step},{self._distributed.size},{r},{s}\n" for r, s in rows)
        return plain(self, batch)

    from ecgray.sampling import ray_data

    cut = ray_data.cut_block

    def slow_cut(*arguments: Any) -> Any:
        time.sleep(seconds)
        return cut(*arguments)

    # A block for each step: tasks of Ray Data then live as long as the steps they are made for.
    ray_data.BLOCK_BYTES, ray_data.cut_block = 1, slow_cut
    Training._step = traced  # type: ignore[method-assign]
    try:
        train(settings)
    finally:
        Training._step = plain  # type: ignore[method-assign]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    given = json.loads(sys.argv[1])
    ray_worker.work = work
    workers = given["workers"]
    pretrain(
        from_dict(PretrainConfig, given["config"]),
        given["out"],
        workers=tuple(workers) if isinstance(workers, list) else workers,
        backend=given["backend"],
        resume=True,
        show_progress=False,
    )
