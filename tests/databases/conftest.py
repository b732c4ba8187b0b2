"""Shipped excerpts, and a writer of WFDB records for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

DATA = Path(__file__).parents[1] / "data"
Writer = Callable[..., Path]


@pytest.fixture(scope="session")
def mitdb_excerpts() -> Path:
    return DATA / "mitdb"


@pytest.fixture(scope="session")
def cinc2017_excerpts() -> Path:
    return DATA / "cinc2017"


@pytest.fixture
def write_record() -> Writer:
    """write(path, digital (samples, leads), ...): a record as wfdb itself writes it; the path without suffix."""

    def write(
        path: Path,
        digital: npt.NDArray[np.signedinteger],
        *,
        fs: float = 250,
        fmt: str = "16",
        gain: float = 200.0,
        baseline: int = 0,
        units: str = "mV",
        leads: Sequence[str] | None = None,
        marks: Sequence[tuple[int, str, str]] | None = None,
        ann_fs: float | None = None,
        **options: object,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = digital.shape[1]
        wfdb.wrsamp(
            path.name,
            fs=fs,
            units=[units] * count,
            sig_name=list(leads or (f"lead{number}" for number in range(count))),
            d_signal=digital,
            fmt=[fmt] * count,
            adc_gain=[gain] * count,
            baseline=[baseline] * count,
            write_dir=str(path.parent),
            **options,
        )
        if marks is not None:
            sample, symbol, aux = zip(*marks, strict=True)
            wfdb.wrann(
                path.name,
                "atr",
                np.array(sample),
                symbol=list(symbol),
                aux_note=list(aux),
                fs=ann_fs,
                write_dir=str(path.parent),
            )
        return path

    return write


@pytest.fixture
def wave() -> npt.NDArray[np.int64]:
    """(1000, 1) digital samples that are neither constant nor missing."""
    return np.rint(300 * np.sin(np.arange(1000) / 9)).astype(np.int64)[:, None]
