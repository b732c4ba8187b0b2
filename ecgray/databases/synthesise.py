"""Synthetic recordings as genuine files: an ambulatory archive in Icentia11K's layout, a labelled set in CinC2017's.

    write_ambulatory(Path("ambulatory"), patients=24, segments_per_patient=2, segment_seconds=600, seed=0)
    write_labelled(Path("labelled"), records=400, seed=0)

Same seed, same bytes; a patient or record does not depend on how many others are written. Not imported with
``ecgray.databases``, which reads such files, since the generator needs scipy.signal, slow to import.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ecgray.databases.ecg_generator import Strip, generate
from ecgray.databases.ecg_noise import NoisyStretch
from ecgray.databases.ecg_patient import CONDITIONS, draw_patient
from ecgray.databases.ecg_rhythm import AFIB, AFLUT, SINUS, Episode
from ecgray.databases.record import BEATS, RHYTHMS
from ecgray.databases.wfdb_write import write_annotations, write_challenge, write_signal
from ecgray.errors import EcgrayError

ICENTIA_GAIN = 74.36482269503546
SYMBOLS = {"undefined": "Q", "normal": "N", "pac": "S", "aberrated": "a", "pvc": "V"}
ZONES = {"normal": "(N", "afib": "(AFIB", "aflut": "(AFL"}
LABEL_SHARES = {"N": 0.54, "A": 0.13, "O": 0.27, "~": 0.06}
OTHER_CONDITIONS = ("pac", "pvc", "flutter", "bradycardia", "tachycardia", "block", "bundle")
LABELLED_LIMIT = 100_000
"""Records of one seed's labelled set lie below it, and its names begin at the seed times it: no two seeds share one."""


def write_ambulatory(
    root: Path, *, patients: int, segments_per_patient: int, segment_seconds: float, seed: int, fs: float = 250.0
) -> None:
    """Files ``root/p00/p00000/p00000_s00.{hea,dat,atr}`` of patients whose conditions go round ``CONDITIONS``.

    Raises EcgrayError for counts below one, segments under 10 s, more patients or segments than the names hold, and a
    folder that holds anything.
    """
    if not (1 <= patients <= 100_000 and 1 <= segments_per_patient <= 100 and segment_seconds >= 10 and seed >= 0):
        raise EcgrayError(
            "An ambulatory archive must have 1-100000 patients, 1-100 segments of 10 s or more and a seed from 0, got "
            f"patients={patients}, segments_per_patient={segments_per_patient}, segment_seconds={segment_seconds}, "
            f"seed={seed}; change those."
        )
    _require_new(root)
    for number in range(patients):
        patient = draw_patient(np.random.default_rng([seed, 1, number]), CONDITIONS[number % len(CONDITIONS)])
        name = f"p{number:05d}"
        folder = Path(root) / name[:3] / name
        folder.mkdir(parents=True, exist_ok=True)
        for segment in range(segments_per_patient):
            strip = generate(patient, np.random.default_rng([seed, 2, number, segment]), seconds=segment_seconds, fs=fs)
            path = folder / f"{name}_s{segment:02d}"
            write_signal(path, _quantise(strip.signal_mv, ICENTIA_GAIN), fs, f"{ICENTIA_GAIN}(0)/mV", "ecg")
            if len(strip.beats):
                write_annotations(path, *_marks(strip), fs)


def write_labelled(root: Path, *, records: int, seed: int, fs: float = 300.0) -> None:
    """Files ``root/training2017/A00001.{hea,mat}`` with RECORDS and REFERENCE-v3.csv; labels in near the real shares.

    Each record is another patient, of the same physiology as the ambulatory ones. Sets of different seeds share no
    name: they count from seed * 100,000 + 1 on. Raises EcgrayError for counts below one, or of 100,000 and more,
    and for a folder that holds anything.
    """
    if not (1 <= records < LABELLED_LIMIT and seed >= 0):
        raise EcgrayError(
            f"A labelled set must have 1-99999 records and a seed from 0, got records={records}, "
            f"seed={seed}; change those."
        )
    _require_new(root)
    folder = Path(root) / "training2017"
    folder.mkdir(parents=True, exist_ok=True)
    names, rows = [], []
    for number in range(records):
        label = label_of(number, seed)
        strip = labelled_strip(np.random.default_rng([seed, 3, number]), label, fs)
        name = f"A{seed * LABELLED_LIMIT + number + 1:05d}"
        write_challenge(folder / name, _quantise(strip.signal_mv, 1000.0), fs)
        names.append(f"{name}\n")
        rows.append(f"{name},{label}\n")
    (folder / "RECORDS").write_text("".join(names), encoding="ascii", newline="\n")
    (folder / "REFERENCE-v3.csv").write_text("".join(rows), encoding="ascii", newline="\n")


def _require_new(root: Path) -> None:
    if Path(root).exists() and (not Path(root).is_dir() or any(Path(root).iterdir())):
        raise EcgrayError(
            f"Synthetic files must go into a new or empty folder, got {root}, which holds others; name another."
        )


def label_of(number: int, seed: int) -> str:
    """The label of a record: a golden-ratio sequence, so that the first n records have the shares for every n."""
    place = ((number + 1) * 0.6180339887498949 + np.random.default_rng([seed, 4]).random()) % 1.0
    bounds = np.cumsum(list(LABEL_SHARES.values()))
    return tuple(LABEL_SHARES)[min(int(np.searchsorted(bounds, place, side="right")), 3)]


def labelled_strip(rng: np.random.Generator, label: str, fs: float) -> Strip:
    """A recording of 9 to 60 s for one label of CinC2017: N normal, A fibrillation, O another rhythm, ~ too noisy."""
    draw = rng.random()
    seconds = 30.0 if draw < 0.7 else (60.0 if draw < 0.82 else float(rng.uniform(9.0, 60.0)))
    seconds = round(seconds * fs) / fs
    condition = {"N": "normal", "A": "afib", "~": "normal"}.get(label) or str(rng.choice(OTHER_CONDITIONS))
    patient = draw_patient(rng, condition, handheld=True)
    rhythm = {"afib": AFIB, "flutter": AFLUT}.get(condition, SINUS)
    start = 0.0
    if label == "A" and rng.random() < 0.15:
        start = float(rng.uniform(0.1, 0.5)) * seconds
    episodes: tuple[Episode, ...] = (Episode(start=start, end=seconds, rhythm=rhythm),)
    if start:
        episodes = (Episode(start=0.0, end=start, rhythm=SINUS), *episodes)
    stretches: tuple[NoisyStretch, ...] | None = None
    if label == "N":
        patient = replace(patient, pac=0.0, pvc=0.0, excursions_per_hour=0.0)
    if label == "O":
        patient = replace(patient, excursions_per_hour=0.0)
    if label == "~":
        clean = seconds * float(rng.uniform(0.0, 0.3))
        at = float(rng.uniform(0.0, clean))
        stretches = (
            NoisyStretch(
                start=at,
                end=at + seconds - clean,
                heart=float(rng.uniform(0.0, 0.9)),
                strength=float(rng.uniform(0.3, 1.3)),
            ),
        )
    strip = generate(patient, rng, seconds=seconds, fs=fs, episodes=episodes, stretches=stretches, band_hz=(0.5, 40.0))
    for _ in range(20):
        if label != "O" or condition not in ("pac", "pvc") or np.isin(strip.beat_classes, (2, 3, 4)).sum() >= 2:
            break
        strip = generate(patient, rng, seconds=seconds, fs=fs, episodes=episodes, band_hz=(0.5, 40.0))
    if rng.random() < 0.35:
        # The hand-held recorder starts before its amplifier has settled.
        time = np.arange(len(strip.signal_mv), dtype=np.float32) / np.float32(fs)
        start_mv = np.float32(rng.normal(0.0, 0.5))
        strip.signal_mv[:] += start_mv * np.exp(-time / np.float32(rng.uniform(0.1, 0.7)))
    return strip


def _quantise(signal_mv: npt.NDArray[np.float32], gain: float) -> npt.NDArray[np.int16]:
    # -32768 means "no value" to WFDB.
    return np.clip(np.rint(signal_mv * gain), -32767, 32767).astype(np.int16)


def _marks(strip: Strip) -> tuple[npt.NDArray[np.int64], list[str], list[str]]:
    """Beats with the text ``None`` and zones of rhythm, as Icentia11K's files have them.

    A zone begins with a marker after its first beat, on the same sample, and ends with one after its last; a zone
    of one beat is one marker. Other rhythms (noise) have no zone.
    """
    samples, symbols, texts = [], [], []
    zones = [ZONES.get(RHYTHMS[code]) for code in strip.beat_rhythms]
    for i, (sample, code) in enumerate(zip(strip.beats.tolist(), strip.beat_classes, strict=True)):
        samples.append(sample)
        symbols.append(SYMBOLS[BEATS[code]])
        texts.append("None")
        zone = zones[i]
        if zone is None:
            continue
        first = i == 0 or zones[i - 1] != zone
        last = i + 1 == len(zones) or zones[i + 1] != zone
        if first or last:
            samples.append(sample)
            symbols.append("+")
            texts.append(f"{zone})" if first and last else zone if first else ")")
    return np.array(samples, np.int64), symbols, texts
