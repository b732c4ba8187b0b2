"""Beats for recordings without annotations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecgray.databases.record import RecordRefused


def detect_beats(signal_mv: npt.NDArray[np.floating], fs: float) -> npt.NDArray[np.int64]:
    """Positions of QRS complexes, int64 ascending, in a signal (samples,) at ``fs`` Hz.

    sleepecg's C detector, after Pan and Tompkins (1985, doi:10.1109/TBME.1985.325532). A signal that is flat, or holds
    less than a second that is not, has no beats. Raises RecordRefused at 60 Hz and below: the detector filters from
    5 to 30 Hz.
    """
    from sleepecg import detect_heartbeats

    if fs <= 60:
        raise RecordRefused(f"beats can be detected above 60 Hz, the record has {fs:g} Hz")
    signal = np.ascontiguousarray(signal_mv, dtype=np.float64)
    varying = np.flatnonzero(signal != signal[0]) if len(signal) else np.empty(0, np.int64)
    if not len(varying) or len(signal) - varying[0] < fs:
        return np.empty(0, np.int64)
    # sleepecg's C code reads the first two seconds unasked, and has a place for every 0.2 s of signal where it may find
    # one beat more: two seconds at rest behind the end give it both.
    found = detect_heartbeats(np.pad(signal, (0, int(np.ceil(2 * fs))), mode="edge"), fs)
    return np.asarray(found[found < len(signal)], dtype=np.int64)
