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
    from scipy.signal import butter, sosfiltfilt
    from sleepecg._heartbeat_detection import _squared_moving_integration, _thresholding

    if fs <= 60:
        raise RecordRefused(f"beats can be detected above 60 Hz, the record has {fs:g} Hz")
    signal = np.ascontiguousarray(signal_mv, dtype=np.float64)
    varying = np.flatnonzero(signal != signal[0]) if len(signal) else np.empty(0, np.int64)
    if not len(varying) or len(signal) - varying[0] < fs:
        return np.empty(0, np.int64)
    # As sleepecg.detect_heartbeats does it, but for the zeros at the end.
    start = int(varying[0]) if signal[1] == signal[0] else 0
    filtered = np.ascontiguousarray(sosfiltfilt(butter(2, (5, 30), "bandpass", output="sos", fs=fs), signal[start:]))
    slope = np.correlate(filtered, np.array([-1, -2, 0, 2, 1]), mode="same")
    integrated = _squared_moving_integration(slope, int(0.15 * fs))
    # _thresholding reads the first 2 fs values, and writes the interval before its k-th beat to place k of an array of
    # values // R places, R = int(0.2 fs). It finds beats at 1 ... n - 1 of n values (no zero is higher than the next
    # value) that lie R or more apart, so k <= (n - 2) // R + 1; 2 R zeros make n // R + 2 places, which is enough.
    zeros = max(2 * int(0.2 * fs), int(2 * fs) - len(filtered))
    found = _thresholding(np.pad(filtered, (0, zeros)), np.pad(integrated, (0, zeros)), fs)
    # The last sample may be higher than the zero after it, but is no peak.
    return start + np.flatnonzero(found[: len(filtered) - 1])
