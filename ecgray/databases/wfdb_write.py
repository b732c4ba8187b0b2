"""Genuine WFDB files, written fast: 16-bit signals, MIT annotations, and the MATLAB files of the 2017 challenge.

wfdb's own writers loop in Python over every annotation; these give the same bytes (the tests compare them).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

CODES = {"N": 1, "a": 4, "V": 5, "S": 9, "Q": 13, "NOTE": 22, "+": 28}
SKIP, AUX = 59, 63


def write_signal(path: Path, signal: npt.NDArray[np.int16], fs: float, gain: str, lead: str) -> None:
    """``path``.dat (format 16, one lead) and ``path``.hea; ``gain`` as the header spells it, e.g. ``200.0(0)/mV``."""
    path.with_suffix(".dat").write_bytes(signal.astype("<i2").tobytes())
    checksum = int(np.sum(signal, dtype=np.int64).astype(np.int16))
    first = int(signal[0]) if len(signal) else 0
    path.with_suffix(".hea").write_text(
        f"{path.name} 1 {fs:g} {len(signal)}\n{path.name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}\n",
        encoding="ascii",
        newline="\n",
    )


def write_annotations(
    path: Path, samples: npt.NDArray[np.int64], symbols: Sequence[str], texts: Sequence[str], fs: float
) -> None:
    """``path``.atr in MIT format; samples ascending (equal ones keep their order), symbols out of CODES."""
    note = f"## time resolution: {fs:g}".encode("ascii")
    parts = [_word(CODES["NOTE"], 0), _text(note), _skip(-1), _word(0, 1)]
    last = 0
    for sample, symbol, text in zip(samples.tolist(), symbols, texts, strict=True):
        step = sample - last
        last = sample
        if step > 1023:
            parts.append(_skip(step))
            step = 0
        parts.append(_word(CODES[symbol], step))
        if text:
            parts.append(_text(text.encode("ascii")))
    parts.append(b"\0\0")
    path.with_suffix(".atr").write_bytes(b"".join(parts))


def write_challenge(path: Path, signal: npt.NDArray[np.int16], fs: float, lead: str = "ECG") -> None:
    """``path``.mat (MATLAB v4, variable ``val`` (1, samples), data after 24 bytes) and ``path``.hea, 1000 per mV."""
    preamble = np.array([30, 1, len(signal), 0, 4], "<i4").tobytes() + b"val\0"
    path.with_suffix(".mat").write_bytes(preamble + signal.astype("<i2").tobytes())
    first = int(signal[0]) if len(signal) else 0
    path.with_suffix(".hea").write_text(
        f"{path.name} 1 {fs:g} {len(signal)} 05:05:15 1/05/2000\n"
        f"{path.name}.mat 16+24 1000/mV 16 0 {first} 0 0 {lead}\n",
        encoding="ascii",
        newline="\r\n",
    )


def _word(code: int, low: int) -> bytes:
    return (code << 10 | low).to_bytes(2, "little")


def _skip(step: int) -> bytes:
    """A long step: its high half first."""
    bits = step & 0xFFFFFFFF
    return _word(SKIP, 0) + (bits >> 16).to_bytes(2, "little") + (bits & 0xFFFF).to_bytes(2, "little")


def _text(text: bytes) -> bytes:
    return _word(AUX, len(text)) + text + b"\0" * (len(text) % 2)
