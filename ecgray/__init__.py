"""ecgray: pretrain, finetune and tune ECG networks on Ray, from WFDB files to a ten-seed table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ecgray.training.loaded import LoadedModel

__version__ = "0.1.0"


def load(run: Path | str, seed: int | None = None) -> LoadedModel:
    """The trained network of a run, with its preprocessing inside: (batch, leads, samples) in mV in, logits out.

    Of a finetuning run, ``seed`` chooses one of its networks (default: the one with the best validation score).
    """
    from ecgray.training.loaded import load as load_run

    return load_run(run, seed)
