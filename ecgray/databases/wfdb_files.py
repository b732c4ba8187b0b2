"""A whole record from its WFDB files: header, signal, annotations, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecgray.databases import wfdb_annotations
from ecgray.databases.record import Record, RecordRefused, Reference
from ecgray.databases.wfdb_header import Header, read_header, refuse_outside
from ecgray.databases.wfdb_signal import read_signal


def header_names(folder: Path) -> list[str]:
    """Names (without suffix) of the header files that lie in the folder itself, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name[:-4] for entry in entries if entry.name.endswith(".hea"))


def read_record(
    reference: Reference,
    database: str,
    *,
    beat_symbols: Mapping[str, str],
    rhythm_names: Mapping[str, str],
    lead: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    header: Header | None = None,
) -> Record:
    """The record of a reference, annotated where a ``.atr`` file lies beside it.

    ``lead`` picks one lead by its name; None takes every lead that is a voltage. ``header`` saves reading it twice.
    Raises RecordRefused, and nothing else, for what cannot be used.
    """
    try:
        return _read(reference, database, beat_symbols, rhythm_names, lead, attributes or {}, header)
    except OSError as error:
        raise RecordRefused(f"the file cannot be read: {error.strerror or error}") from None


def _read(
    reference: Reference,
    database: str,
    beat_symbols: Mapping[str, str],
    rhythm_names: Mapping[str, str],
    lead: str | None,
    attributes: Mapping[str, Any],
    header: Header | None,
) -> Record:
    header = header or read_header(reference.path)
    leads = _choose(header, lead)
    signal = read_signal(reference.path, header, leads)
    samples = signal.values.shape[1]
    found: dict[str, Any] = {}
    file = refuse_outside(reference.path.parent, reference.path.name + ".atr")
    if file.is_file():
        annotations = wfdb_annotations.read_annotations(file).at_fs(header.fs)
        outside = (annotations.sample < 0) | (annotations.sample >= samples)
        if outside.any():
            raise RecordRefused(
                f"an annotation lies at sample {annotations.sample[np.argmax(outside)]}, the record has {samples}"
            )
        found["beats"], found["beat_classes"] = wfdb_annotations.beats(annotations, beat_symbols)
        found["rhythms"] = wfdb_annotations.rhythms(annotations, rhythm_names, samples)
        found["source_symbols"] = annotations.counts()
        found["annotated"] = True
    if signal.missing:
        attributes = {**attributes, "missing_samples": signal.missing}
    return Record(
        id=reference.record,
        patient=reference.patient,
        database=database,
        fs=header.fs,
        leads=tuple(header.signals[number].name for number in leads),
        signal=signal.values,
        gain=signal.gain,
        baseline=signal.baseline,
        labels=reference.labels,
        attributes={**reference.attributes, **attributes},
        requantisation_uv=signal.requantisation_uv,
        **found,
    )


def _choose(header: Header, lead: str | None) -> list[int]:
    if lead is not None:
        if lead not in header.names:
            raise RecordRefused(f"it has no lead {lead}; its leads are {', '.join(header.names)[:200]}")
        chosen = [header.names.index(lead)]
    else:
        chosen = list(range(len(header.signals)))
    voltages = [number for number in chosen if header.signals[number].voltage]
    if not voltages:
        units = ", ".join(sorted({header.signals[number].unit for number in chosen}))[:200]
        raise RecordRefused(f"no lead is a voltage in mV, uV or V; the units are {units}")
    return voltages
