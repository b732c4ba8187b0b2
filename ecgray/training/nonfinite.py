"""What is left behind when a loss or a gradient is no longer a number."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from ecgray.shards.archive import Archive
from ecgray.shards.storage import join
from ecgray.training.checkpoint import newest_checkpoint, step_folder
from ecgray.training.config import PretrainConfig
from ecgray.training.distributed import Distributed
from ecgray.training.outcome import Step
from ecgray.training.published import FOLDER, newest_published
from ecgray.training.run import RunFolder
from ecgray.training.stopping import RunEnded


def stop_on_nonfinite(
    run: RunFolder, config: PretrainConfig, archive: Archive, distributed: Distributed, step: Step
) -> NoReturn:
    """Write this rank's frames of a step as CSV (record, start, patient, database, loss), then raise RunEnded.

    Frames whose own loss is not finite come first, so that they are in the picture that ``ecgray label --plot`` draws.
    """
    provenance = archive.provenance(step.batch.record, step.batch.start)
    table = pd.DataFrame(provenance, columns=["database", "patient", "record", "start"])
    table["loss"] = step.losses.float().cpu().numpy()
    table = table.sort_values("loss", key=np.isfinite, kind="stable")
    file = run.path / f"nonfinite-step-{step.number:06d}-rank-{distributed.rank}.csv"
    table[["record", "start", "patient", "database", "loss"]].to_csv(file, index=False, na_rep="nan")
    run.publish(file)
    newest: Path | str | None = newest_checkpoint(run.checkpoints)
    if run.url is not None:
        step_before = newest_published(run.url)
        newest = None if step_before is None else join(run.url, FOLDER, step_folder(run.checkpoints, step_before).name)
    task = config.task.name if config.task.classes else "beat"  # future prediction has no label to show
    words = ["ecgray", "label", *archive.paths, "--task", task, "--frame-size", str(config.sampling.frame_size)]
    command = shlex.join([*words, "--frames", str(file), "--plot", str(file.with_suffix(".png"))])
    raise RunEnded(
        f"Loss and gradient must be finite, got nan or inf at step {step.number}; its frames are listed in {file}"
        f"{' and beside it, one file per worker' if distributed.size > 1 else ''}: look at them with `{command}`. "
        f"The last good checkpoint is {newest or 'none yet'}. A new run with a lower optimiser.learning_rate, with "
        "optimiser.clip_norm or with training.precision fp32 may help."
    )
