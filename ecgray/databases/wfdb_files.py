"""A whole record from its WFDB files: header, signal, annotations, checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecgray.databases import wfdb_annotations
from ecgray.databases.ecg_leads import are_ecg, find_lead, lead_key
from ecgray.databases.record import Record, RecordRefused, Reference
from ecgray.databases.vocabulary import BEAT_SYMBOLS, DETECTORS, MINUTES, RHYTHM_NAMES
from ecgray.databases.wfdb_annotations import AnnotationFile
from ecgray.databases.wfdb_header import Header, read_header, refuse_outside
from ecgray.databases.wfdb_signal import read_signal
from ecgray.errors import EcgrayError, quoted, unknown

MAX_OUTSIDE = 0.01
"""Share of a file's annotations that may lie outside the record; two always may."""


BeatsAre = Literal["marked", "undefined", "normal"]


@dataclass(frozen=True, kw_only=True)
class Annotators:
    """Which annotation files of a record are read, by their suffix.

    rhythms: those of the rhythm marks; beats: those of the beats, None for the same file. beats_are: what every beat
    counts as: what its symbol says (marked), a beat of no known class (undefined), normal; None: undefined where the
    file is a detector's (``vocabulary.DETECTORS``), which says where beats are and not of which kind, else marked.
    """

    rhythms: str = "atr"
    beats: str | None = None
    beats_are: BeatsAre | None = None

    def __post_init__(self) -> None:
        for name in (self.rhythms, self.beats):
            if name is not None and not re.fullmatch(r"\w{1,20}", name):
                raise EcgrayError(
                    f"annotator must be the suffix of annotation files, as atr or qrs, got {quoted(name)}."
                )
        if self.beats_are not in (None, "marked", "undefined", "normal"):
            raise unknown("beats_are", str(self.beats_are), ("marked", "undefined", "normal"))

    @property
    def of_beats(self) -> str:
        return self.rhythms if self.beats is None else self.beats

    @property
    def beat_symbols(self) -> Mapping[str, str]:
        """Symbol -> one of BEATS; empty where the file's marks are no beats (``vocabulary.MINUTES``)."""
        if self.beats_are is None and self.of_beats.lower() in MINUTES:
            return {}
        are = self.beats_are or ("undefined" if self.of_beats.lower() in DETECTORS else "marked")
        return BEAT_SYMBOLS if are == "marked" else dict.fromkeys(BEAT_SYMBOLS, are)


_REFERENCE = Annotators()


def require_annotations(root: Path, paths: Sequence[Path], annotators: Annotators, *, needed: bool) -> None:
    """EcgrayError where no record at ``paths`` (without suffix) has a file of an annotator that was asked for.

    The reference annotator's may be absent, unless they are ``needed``.
    """
    for suffix in _suffixes(annotators):
        asked = needed or suffix != _REFERENCE.rhythms
        if asked and not any(path.with_name(f"{path.name}.{suffix}").exists() for path in paths):
            raise EcgrayError(
                f"annotator must be the suffix of annotation files, and {root} has no .{suffix}; check it."
            )


def read_record(
    reference: Reference,
    database: str,
    *,
    leads: Sequence[str] = (),
    annotators: Annotators | None = _REFERENCE,
    complete: bool = False,
    attributes: Mapping[str, Any] | None = None,
    header: Header | None = None,
) -> Record:
    """The record of a reference, with the annotations of the files that ``annotators`` tells, as far as they are there;
    None reads none.

    ``leads`` picks leads by name, case aside, in this order and under these names; none takes every voltage that can be
    an ECG lead (``ecg_leads``). ``complete``: the files name
    every beat, so that one without beats (but not an empty one) says that there are none. ``header`` saves reading it
    twice.

    Marks before the first sample or after the last are left out and counted in the attribute ``annotations_outside``:
    the rate of an annotation file may round its last mark upwards, and a signal may have lost its end. More than two
    and more than MAX_OUTSIDE of them are the annotations of something else.

    Raises RecordRefused, and nothing else, for what cannot be used.
    """
    try:
        return _read(reference, database, leads, annotators, complete, attributes or {}, header)
    except OSError as error:
        raise RecordRefused(f"the file cannot be read: {error.strerror or error}") from None


def _read(
    reference: Reference,
    database: str,
    wanted: Sequence[str],
    annotators: Annotators | None,
    complete: bool,
    attributes: Mapping[str, Any],
    header: Header | None,
) -> Record:
    header = header or read_header(reference.path)
    leads = _choose(header, wanted)
    signal = read_signal(reference.path, header, leads)
    fs, samples = signal.fs, signal.values.shape[1]
    found: dict[str, Any] = {}
    elsewhere: dict[str, str] = {}
    if annotators is not None:
        files = {
            suffix: _annotations(reference.path, suffix, (fs, header.fs), samples) for suffix in _suffixes(annotators)
        }
        if outside := sum(read.outside for read in files.values() if read is not None):
            attributes = {**attributes, "annotations_outside": outside}
        beats, rhythms = files[annotators.of_beats], files[annotators.rhythms]
        if beats is not None:
            positions = wfdb_annotations.beats(beats.inside, annotators.beat_symbols)
            found["beats"], found["beat_classes"] = positions
            found["annotated"] = len(positions[0]) > 0 or (complete and not beats.empty)
        if not len(found.get("beats", ())) and (other := _detected(reference.path)):
            elsewhere = {"beats_elsewhere": other}
        if rhythms is not None:
            found["rhythms"] = wfdb_annotations.rhythms(rhythms.inside, RHYTHM_NAMES, samples)
        counts: Counter[str] = Counter()
        for read in files.values():
            counts.update(read.counts if read is not None else {})
        found["source_symbols"] = dict(counts)
    if signal.missing:
        attributes = {**attributes, "missing_samples": signal.missing}
    return Record(
        id=reference.record,
        patient=reference.patient,
        database=database,
        fs=fs,
        leads=tuple(wanted) or tuple(header.signals[number].name for number in leads),
        signal=signal.values,
        gain=signal.gain,
        baseline=signal.baseline,
        labels=reference.labels,
        attributes={**reference.attributes, **attributes},
        gaps=signal.gaps,
        requantisation_uv=signal.requantisation_uv,
        notes={**_notes(header, leads, bool(wanted)), **elsewhere},
        **found,
    )


@dataclass(frozen=True)
class _Marks:
    """Annotations inside the record, how many lie outside, counts of all, and whether the file is of no byte."""

    inside: AnnotationFile
    outside: int
    counts: dict[str, int]
    empty: bool


def _detected(path: Path) -> str | None:
    """The suffix of a detector's file beside the record, None where there is none."""
    return next((suffix for suffix in DETECTORS if path.with_name(f"{path.name}.{suffix}").is_file()), None)


def _suffixes(annotators: Annotators) -> list[str]:
    return list(dict.fromkeys((annotators.rhythms, annotators.of_beats)))


def _annotations(path: Path, suffix: str, rates: tuple[float, float], samples: int) -> _Marks | None:
    """What the annotation file of the record at ``path`` holds, None where there is none. ``rates``: of its signal, and
    of its header."""
    file = refuse_outside(path.parent, f"{path.name}.{suffix}")
    if not file.is_file():
        return None
    every = wfdb_annotations.read_annotations(file).at_fs(*rates)
    inside = every.within(samples)
    count = len(every.sample)
    outside = count - len(inside.sample)
    if outside > max(2, MAX_OUTSIDE * count):
        raise RecordRefused(f"{outside} of {count} annotations lie outside its {samples} samples")
    return _Marks(inside, outside, every.counts(), file.stat().st_size == 0)


def _notes(header: Header, leads: Sequence[int], by_name: bool) -> dict[str, str]:
    """What is to be remarked of the choice of leads, and of what the header leaves open about them."""
    lines = [header.signals[number] for number in leads]
    keys = [lead_key(name) for name in header.names]
    found = {
        "no_unit": [line.name for line in lines if not line.unit_given],
        "uncalibrated": [line.name for line in lines if not line.calibrated],
        "left_out": [] if by_name else [name for number, name in enumerate(header.names) if number not in leads],
        "same_names": [header.names[number] for number in leads if keys.count(keys[number]) > 1],
    }
    return {kind: ", ".join(names)[:200] for kind, names in found.items() if names}


def _choose(header: Header, wanted: Sequence[str]) -> list[int]:
    chosen = [find_lead(header.names, lead) for lead in wanted] or list(range(len(header.signals)))
    voltages = [number for number in chosen if header.signals[number].voltage]
    if wanted and 0 < len(voltages) < len(chosen):
        first = next(header.signals[number] for number in chosen if number not in voltages)
        raise RecordRefused(f"its lead {first.name} is no voltage in V, mV, uV or nV; its unit is {first.unit[:100]}")
    if not voltages:
        units = ", ".join(sorted({header.signals[number].unit for number in chosen}))[:200]
        raise RecordRefused(f"no lead is a voltage in V, mV, uV or nV; the units are {units}")
    if wanted:
        return voltages
    ecg = are_ecg(header.names)
    if not (leads := [number for number in voltages if ecg[number] is not False]):
        names = ", ".join(header.signals[number].name for number in voltages)[:200]
        raise RecordRefused(f"no signal is an ECG lead by its name, they are {names}; 'folder --lead' takes one")
    return leads
