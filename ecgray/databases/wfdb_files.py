"""A whole record from its WFDB files: header, signal, annotations, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgray.databases import wfdb_annotations
from ecgray.databases.ecg_leads import are_ecg, find_lead, lead_key
from ecgray.databases.record import Record, RecordRefused, Reference
from ecgray.databases.wfdb_header import Header, read_header, refuse_outside, segment_names
from ecgray.databases.wfdb_signal import read_signal
from ecgray.errors import EcgrayError, quoted

MAX_OUTSIDE = 0.01
"""Share of a file's annotations that may lie outside the record; two always may."""


def header_names(folder: Path) -> list[str]:
    """Names (without suffix) of the header files that lie in the folder itself, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name[:-4] for entry in entries if entry.name.endswith(".hea"))


def masters(paths: Iterable[Path]) -> dict[Path, Path]:
    """segment -> the multi-segment record that it is a stretch of, among the headers at ``paths`` (without suffix)."""
    return {path.parent / name: path for path in paths for name in segment_names(path)}


def require_annotator(annotator: str) -> None:
    """EcgrayError unless it can be the suffix of an annotation file."""
    if not re.fullmatch(r"\w{1,20}", annotator):
        raise EcgrayError(f"annotator must be the suffix of annotation files, as atr or qrs, got {quoted(annotator)}.")


def read_record(
    reference: Reference,
    database: str,
    *,
    beat_symbols: Mapping[str, str],
    rhythm_names: Mapping[str, str],
    leads: Sequence[str] = (),
    annotator: str | None = "atr",
    complete: bool = False,
    attributes: Mapping[str, Any] | None = None,
    header: Header | None = None,
) -> Record:
    """The record of a reference, with the annotations of the file that has the suffix ``annotator``, if there is one;
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
        return _read(
            reference, database, beat_symbols, rhythm_names, leads, annotator, complete, attributes or {}, header
        )
    except OSError as error:
        raise RecordRefused(f"the file cannot be read: {error.strerror or error}") from None


def _read(
    reference: Reference,
    database: str,
    beat_symbols: Mapping[str, str],
    rhythm_names: Mapping[str, str],
    wanted: Sequence[str],
    annotator: str | None,
    complete: bool,
    attributes: Mapping[str, Any],
    header: Header | None,
) -> Record:
    header = header or read_header(reference.path)
    leads = _choose(header, wanted)
    signal = read_signal(reference.path, header, leads)
    fs, samples = signal.fs, signal.values.shape[1]
    found: dict[str, Any] = {}
    file = annotator and refuse_outside(reference.path.parent, f"{reference.path.name}.{annotator}")
    if file and file.is_file():
        every = wfdb_annotations.read_annotations(file).at_fs(fs, header.fs)
        annotations = every.within(samples)
        count = len(every.sample)
        outside = count - len(annotations.sample)
        if outside > max(2, MAX_OUTSIDE * count):
            raise RecordRefused(f"{outside} of {count} annotations lie outside its {samples} samples")
        if outside:
            attributes = {**attributes, "annotations_outside": outside}
        found["beats"], found["beat_classes"] = wfdb_annotations.beats(annotations, beat_symbols)
        found["rhythms"] = wfdb_annotations.rhythms(annotations, rhythm_names, samples)
        found["source_symbols"] = every.counts()
        found["annotated"] = len(found["beats"]) > 0 or (complete and file.stat().st_size > 0)
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
        notes=_notes(header, leads, bool(wanted)),
        **found,
    )


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
