"""Icentia11K: zones, patients and segments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb

from ecgray.databases import BEATS, RHYTHMS, Icentia11k

Writer = Callable[..., Path]
GAIN = 74.36482269503546
BEAT = {"Q": "undefined", "N": "normal", "S": "pac", "a": "aberrated", "V": "pvc"}
RHYTHM = {"(N": "normal", "(AFIB": "afib", "(AFL": "aflut"}


def slow_annotations(path: Path) -> tuple[list[tuple[int, str]], list[list[int]]]:
    """The conversion undone: every beat between a zone's marks, both included, belongs to it."""
    marks = wfdb.rdann(str(path), "atr")
    beats, zones, opened = [], [], None
    for sample, symbol, text in zip(marks.sample.tolist(), marks.symbol, marks.aux_note, strict=True):
        if symbol in BEAT:
            beats.append((sample, BEAT[symbol]))
        elif symbol == "+" and text == ")":
            assert opened is not None
            zones.append([opened[0], sample + 1, opened[1]])
            opened = None
        elif symbol == "+" and text.endswith(")"):
            zones.append([sample, sample + 1, RHYTHMS.index(RHYTHM[text[:-1]])])
        elif symbol == "+":
            assert opened is None
            opened = (sample, RHYTHMS.index(RHYTHM[text]))
    return beats, zones


def check(root: Path) -> int:
    references = Icentia11k().find(root)
    for reference in references:
        record = Icentia11k().read(reference)
        beats, zones = slow_annotations(reference.path)
        assert record.beats.tolist() == [sample for sample, _ in beats]
        assert [BEATS[c] for c in record.beat_classes] == [name for _, name in beats]
        assert record.rhythms.tolist() == zones
        assert set(record.rhythms[:, 0]) <= set(record.beats) >= set(record.rhythms[:, 1] - 1)
        assert (record.leads, record.fs, record.gain.tolist(), record.baseline.tolist()) == (("ecg",), 250, [GAIN], [0])
        assert record.signal.dtype == np.int16
    return len(references)


def test_written_like_the_conversion_writes(tmp_path: Path, write_record: Writer, wave: npt.NDArray[np.int64]) -> None:
    rng = np.random.default_rng(0)
    for patient in range(3):
        for segment in range(2):
            position = np.sort(rng.choice(np.arange(1, 990), 40, replace=False)).tolist()
            rhythm = np.repeat(rng.choice(["", "(N", "(AFIB", "(AFL"], 16), rng.integers(1, 6, 16))[:40].tolist()
            rhythm += [""] * (40 - len(rhythm))
            marks = []
            for n, (sample, name) in enumerate(zip(position, rhythm, strict=True)):
                marks.append((sample, str(rng.choice(list("QNSaV"))), "None"))
                first = n == 0 or rhythm[n - 1] != name
                last = n == 39 or rhythm[n + 1] != name
                if name and (first or last):
                    marks.append((sample, "+", f"{name})" if first and last else name if first else ")"))
            name = f"p{patient:05d}"
            path = tmp_path / "p00" / name / f"{name}_s{segment:02d}"
            write_record(path, wave, leads=["ecg"], gain=GAIN, marks=marks, ann_fs=250)
    assert check(tmp_path) == 6


def test_real_segment(real_data: Path) -> None:
    root = real_data / "icentia11k"
    assert check(root) == 1
    record = Icentia11k().read(Icentia11k().find(root)[0])
    assert record.signal.shape == (1, 1_048_577)
    counts = np.bincount(record.beat_classes, minlength=len(BEATS)).tolist()
    assert dict(zip(BEATS, counts, strict=True)) == {
        "undefined": 244,
        "normal": 6641,
        "pac": 0,
        "aberrated": 0,
        "pvc": 0,
    }
    assert len(record.rhythms) == 19
    assert record.source_symbols == {"N": 6641, "Q": 244, "+": 38, "+ (N": 19, "+ )": 19}


def test_segments_patients_and_order(tmp_path: Path) -> None:
    for name in ("p00/p00002/p00002_s01", "p00/p00002/p00002_s00", "p10/p10999/p10999_s49", "p00/p00001/p00001_s00"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.hea").touch()
    (tmp_path / "p00" / "p00002" / "notes.hea").touch()
    (tmp_path / "extra").mkdir()
    found = [(reference.patient, reference.record) for reference in Icentia11k().find(tmp_path)]
    assert found == [
        ("p00001", "p00001_s00"),
        ("p00002", "p00002_s00"),
        ("p00002", "p00002_s01"),
        ("p10999", "p10999_s49"),
    ]


def test_a_segment_without_annotation_file_is_unannotated(
    tmp_path: Path, write_record: Writer, wave: npt.NDArray[np.int64]
) -> None:
    write_record(tmp_path / "p00" / "p00000" / "p00000_s00", wave, leads=["ecg"])
    record = Icentia11k().read(Icentia11k().find(tmp_path)[0])
    assert not record.annotated
    assert len(record.beats) == 0 and record.rhythms.shape == (0, 3)
