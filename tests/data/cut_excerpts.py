"""Cut the excerpts of this folder from full copies: python tests/data/cut_excerpts.py MITDB TRAINING2017"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import wfdb

HERE = Path(__file__).parent
# record: first sample, seconds
MITDB = {
    "100": (0, 60),
    "102": (0, 20),
    "106": (54_000, 60),
    "108": (0, 20),
    "114": (154_000, 20),
    "201": (568_000, 60),
    "207": (9_000, 40),
    "219": (108_000, 60),
}
CINC2017 = [
    *("A00405", "A00589", "A00592", "A00894", "A00954", "A00984", "A01037", "A01056", "A01364", "A01424", "A02179"),
    *("A02345", "A03389", "A03549", "A04239", "A04936", "A05053", "A05493", "A05499", "A05503", "A07499", "A07615"),
    *("A08043", "A08232"),
]


def cut_mitdb(source: Path, out: Path) -> None:
    """Signal and annotations of a stretch; where a rhythm is under way at its start, its mark is put at sample 0."""
    out.mkdir(exist_ok=True)
    for name, (first, seconds) in MITDB.items():
        last = first + seconds * 360
        record = wfdb.rdrecord(str(source / name), sampfrom=first, sampto=last, physical=False)
        wfdb.wrsamp(
            name,
            fs=record.fs,
            units=record.units,
            sig_name=record.sig_name,
            d_signal=record.d_signal,
            fmt=record.fmt,
            adc_gain=record.adc_gain,
            baseline=record.baseline,
            comments=record.comments,
            write_dir=str(out),
        )
        marks = wfdb.rdann(str(source / name), "atr")
        chosen = np.flatnonzero((marks.sample >= first) & (marks.sample < last))
        sample, symbol = marks.sample[chosen] - first, [marks.symbol[i] for i in chosen]
        aux, subtype = [marks.aux_note[i] for i in chosen], marks.subtype[chosen]
        rhythms = [i for i, text in enumerate(marks.aux_note) if text.startswith("(") and marks.sample[i] < first]
        if rhythms:
            sample, symbol = np.insert(sample, 0, 0), ["+", *symbol]
            aux, subtype = [marks.aux_note[rhythms[-1]], *aux], np.insert(subtype, 0, 0)
        wfdb.wrann(name, "atr", sample, symbol=symbol, subtype=subtype, aux_note=aux, write_dir=str(out))


def copy_cinc2017(source: Path, out: Path) -> None:
    """Whole records, and the rows of the three reference tables that name them, line ends as they were."""
    out.mkdir(parents=True, exist_ok=True)
    for name in CINC2017:
        for suffix in (".hea", ".mat"):
            shutil.copyfile(source / f"{name}{suffix}", out / f"{name}{suffix}")
    for table in ("REFERENCE-original.csv", "REFERENCE.csv", "REFERENCE-v3.csv"):
        rows = (source / table).read_bytes().splitlines(keepends=True)
        (out / table).write_bytes(b"".join(row for row in rows if row[:6].decode() in CINC2017))
    (out / "RECORDS").write_text("".join(f"{name}\n" for name in sorted([*CINC2017, "A09999"])))


if __name__ == "__main__":
    cut_mitdb(Path(sys.argv[1]), HERE / "mitdb")
    copy_cinc2017(Path(sys.argv[2]), HERE / "cinc2017" / "training2017")
