"""Beats for recordings without annotations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def detect_beats(signal_mv: npt.NDArray[np.floating], fs: float) -> npt.NDArray[np.int64]:
    """Positions of QRS complexes, int64 ascending, in a signal (samples,) at ``fs`` Hz.

    sleepecg's C detector, after Pan and Tompkins (1985, doi:10.1109/TBME.1985.325532). A signal that is flat or too
    short for it (under a second) has no beats; the filter needs a sampling rate above 60 Hz.
    """
    from sleepecg import detect_heartbeats

    signal = np.ascontiguousarray(signal_mv, dtype=np.float64)
    if len(signal) < fs or fs <= 60 or signal.min() == signal.max():
        return np.empty(0, np.int64)
    return np.asarray(detect_heartbeats(signal, fs), dtype=np.int64)
