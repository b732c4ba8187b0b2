"""Sensitivity and positive predictive value of the kept QRS detector: python benchmarks/qrs.py MITDB [--lead MLII]

A beat counts as found when a detection lies within 150 ms of it, each detection serving one beat. Beats are all
annotations that WFDB counts as QRS complexes; ``--without-flutter`` leaves out stretches of ventricular flutter
([ ... ], record 207), where there are waves and no beats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgray.databases import MitBih, RecordRefused
from ecgray.databases.qrs import detect_beats
from ecgray.databases.wfdb_annotations import SYMBOLS, read_annotations

TOLERANCE_S = 0.15


def matches(beats: npt.NDArray[np.int64], found: npt.NDArray[np.int64], tolerance: float) -> int:
    """Pairs of one beat and one detection within ``tolerance`` samples, in time order (both ascending)."""
    pairs = beat = detection = 0
    while beat < len(beats) and detection < len(found):
        distance = found[detection] - beats[beat]
        if abs(distance) <= tolerance:
            pairs += 1
        beat += distance >= -tolerance
        detection += distance <= tolerance
    return pairs


def outside_flutter(file: Path, position: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which positions lie in no stretch from ``[`` to ``]``."""
    marks = read_annotations(file)
    symbols = np.array([SYMBOLS.get(code, "") for code in marks.type.tolist()])
    start, end = marks.sample[symbols == "["], marks.sample[symbols == "]"]
    return np.searchsorted(start, position, side="right") == np.searchsorted(end, position, side="left")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("root", type=Path)
    words.add_argument("--lead", default="MLII")
    words.add_argument("--without-flutter", action="store_true")
    options = words.parse_args()
    database = MitBih(lead=options.lead)
    totals = np.zeros(3, np.int64)
    print("record   beats   found  matched  sensitivity    PPV")
    for reference in database.find(options.root):
        try:
            record = database.read(reference)
        except RecordRefused as reason:
            print(f"{reference.record:6s} refused: {reason}")
            continue
        beats = record.beats
        found = detect_beats((record.signal[0] - record.baseline[0]) / record.gain[0], record.fs)
        if options.without_flutter:
            file = reference.path.with_name(f"{reference.record}.atr")
            beats, found = beats[outside_flutter(file, beats)], found[outside_flutter(file, found)]
        matched = matches(beats, found, TOLERANCE_S * record.fs)
        totals += len(beats), len(found), matched
        row = f"{reference.record:6s} {len(beats):7d} {len(found):7d} {matched:8d}"
        print(f"{row}  {matched / len(beats):11.2%} {matched / len(found):6.2%}")
    beat_total, found_total, matched_total = (int(total) for total in totals)
    row = f"all    {beat_total:7d} {found_total:7d} {matched_total:8d}"
    print(f"{row}  {matched_total / beat_total:11.2%} {matched_total / found_total:6.2%}")


if __name__ == "__main__":
    main()
