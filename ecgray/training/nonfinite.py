"""What is left behind when a loss or a gradient is no longer a number."""

from __future__ import annotations

from typing import NoReturn

import pandas as pd
from torch import Tensor

from ecgray.sampling.stream import Batch
from ecgray.shards.archive import Archive
from ecgray.training.checkpoint import newest_checkpoint
from ecgray.training.distributed import Distributed
from ecgray.training.run import RunFolder
from ecgray.training.stopping import RunEnded


def stop_on_nonfinite(
    run: RunFolder, archive: Archive, distributed: Distributed, step: int, batch: Batch, losses: Tensor
) -> NoReturn:
    """Write this rank's frames of ``step`` as CSV (record, start, patient, database, loss), then raise RunEnded.

    The CSV is what ``ecgray label --frames`` takes.
    """
    provenance = archive.provenance(batch.record, batch.start)
    table = pd.DataFrame(provenance, columns=["database", "patient", "record", "start"])
    table["loss"] = losses.float().cpu().numpy()
    file = run.path / f"nonfinite-step-{step:06d}-rank-{distributed.rank}.csv"
    table[["record", "start", "patient", "database", "loss"]].to_csv(file, index=False, na_rep="nan")
    newest = newest_checkpoint(run.checkpoints)
    raise RunEnded(
        f"Loss and gradient must be finite, got nan or inf at step {step}; its frames are listed in {file} (look at "
        f"them with 'ecgray label --frames'), the last good checkpoint is {newest or 'none yet'}. A lower "
        "optimiser.learning_rate, optimiser.clip_norm or training.precision fp32 may help."
    )
